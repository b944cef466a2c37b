"""Pretraining material for the small base: general skills over the same words, in other formats.

`SKILLS[name] = (share, definitions, draw)`, `draw(rng) -> (input, output)`. Copying, recall from a
list, patterns shown once, and plain statements about conditions and drugs; none of the sample's
tasks, and none of its test inputs.
"""

from data.sample.lexicon import (
    ABBREVIATIONS,
    CONDITIONS,
    COURSES,
    DISORDERS,
    FINDINGS,
    ORGANS,
)
from data.sample.notes import KINDS, SENTENCES, SPANISH, note, some, words
from data.sample.tasks import capital

FIELDS = ("name", "age", "sex", "site", "grade", "drug", "dose", "sign", "pulse", "ward", "day")
MARKS = ("alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "north", "south", "east")
LETTERS = "ABCD"


def repeat(rng):
    text = note(rng, rng.randrange(1, 4))
    return text, text


def keywords(rng):
    template, slots = rng.choice(SENTENCES), words(rng)
    text = capital(template.format(**slots))
    used = [str(value) for name, value in slots.items() if f"{{{name}}}" in template]
    return ", ".join(used), text


def rest(rng):
    text = note(rng, rng.randrange(2, 4))
    parts = text.split(" ")
    cut = rng.randrange(3, len(parts) - 2)
    return f"{text}\n{' '.join(parts[: cut + 1])}", " ".join(parts[cut + 1 :])


def field_value(rng):
    fields = rng.sample(FIELDS, rng.randrange(3, 7))
    values = some(rng, len(fields))
    asked = rng.randrange(len(fields))
    listed = ", ".join(f"{k}: {v}" for k, v in zip(fields, values, strict=True))
    return f"{listed}\n{fields[asked]}", values[asked]


def after_word(rng):
    items = some(rng, rng.randrange(4, 9))
    asked = rng.randrange(len(items) - 1)
    return f"{', '.join(items)}\nAfter: {items[asked]}", items[asked + 1]


def which_shown(rng):
    shown, other = note(rng), note(rng)
    pair = [shown, other]
    rng.shuffle(pair)
    return f"{note(rng)} {shown}\n1: {pair[0]}\n2: {pair[1]}", str(pair.index(shown) + 1)


def abbreviation(rng):
    short, long = rng.choice([*ABBREVIATIONS.items()])
    before, after = note(rng).rstrip("."), rng.choice(FINDINGS)
    form = rng.choice(("{}", "{} and " + after, before + ", {}"))
    return form.format(short), form.format(long)


def gap(rng):
    slots, template = words(rng), rng.choice(SENTENCES)
    names = [name for name in slots if f"{{{name}}}" in template]
    asked = rng.choice(names)
    full = capital(template.format(**slots))
    holed = template.replace(f"{{{asked}}}", "___").format(**slots)
    return f"{full} {note(rng)}\n{capital(holed)}", str(slots[asked])


def recall(rng):
    items = some(rng, 2 * rng.randrange(2, 6))
    pairs = [*zip(items[::2], items[1::2], strict=True)]
    listed = "\n".join(f"{a} = {b}" for a, b in pairs)
    asked = rng.sample(pairs, min(len(pairs), rng.randrange(1, 4)))
    return f"{listed}\n{', '.join(a for a, _ in asked)}", ", ".join(b for _, b in asked)


def pattern(rng):
    """A rule shown by cases: each cue has a mark of its own; some cases show several cues."""
    cues, marks = some(rng, 4), rng.sample(MARKS, 4)
    cases = [*range(4), *rng.choices(range(4), k=rng.randrange(1, 4))]
    rng.shuffle(cases)
    *shown, asked = [(f"{rng.choice(FINDINGS)}, {cues[c]}", marks[c]) for c in cases]
    if asked[1] not in {mark for _, mark in shown}:
        shown.append((cues[cases[-1]], asked[1]))
    return "\n".join(f"{a} -> {b}" for a, b in shown) + f"\n{asked[0]} ->", asked[1]


def narration(rng):
    c = rng.choice(CONDITIONS)
    signs = rng.sample(c.signs, 2)
    name = c.name.lower()
    lines = [
        rng.choice((f"It arises in the {c.site}.", f"It affects the {c.site}.")),
        rng.choice(
            (f"One sees {signs[0]} and {signs[1]}.", f"It brings {signs[0]} or {signs[1]}.")
        ),
        rng.choice((f"Doctors use {c.drug}.", f"It is treated with {c.drug}.")),
    ]
    rng.shuffle(lines)
    return name, f"{capital(name)} is a disease. " + " ".join(lines)


def fact(rng):
    c = rng.choice(CONDITIONS)
    name, sign = c.name.lower(), rng.choice(c.signs)
    pairs = (
        (f"the drug of {name}", c.drug),
        (f"the place of {name}", c.site),
        (f"a sign of {name}", sign),
        (f"the disease behind {sign}", name),
        (f"the disease behind {sign}", name),
        (f"a disease of the {c.site} that responds to {c.drug}", name),
    )
    return rng.choice(pairs)


def fact_check(rng):
    c, other = rng.sample(CONDITIONS, 2)
    truth = rng.random() < 0.5
    said = c if truth else other
    kind = rng.randrange(3)
    wrong = (said.drug, said.site, said.signs[0])[kind]
    right = (c.drug, c.site, c.signs[0])[kind]
    form = ("{} responds to {}.", "{} sits in the {}.", "{} comes with {}.")[kind]
    verdict = "right" if wrong == right else f"wrong, {right}"
    return form.format(capital(c.name.lower()), wrong), verdict


def kinds(rng):
    named = [rng.choice(("drug", "disease", "finding", "site", "dose")) for _ in range(4)]
    named = named[: rng.randrange(1, 5)]
    items = [rng.choice(KINDS[kind]) for kind in named]
    return ", ".join(items), ", ".join(f"{i}: {k}" for i, k in zip(items, named, strict=True))


def of_kind(rng):
    """Pick the words of one kind out of a list of words."""
    asked, other = rng.sample(("drug", "disease", "finding", "site", "dose", "Spanish"), 2)
    wanted = rng.sample(KINDS[asked], rng.randrange(1, 4))
    items = wanted + rng.sample(KINDS[other], rng.randrange(1, 4))
    rng.shuffle(items)
    picked = [item for item in items if item in wanted]
    return f"{' - '.join(items)}\n{asked}", " - ".join(picked)


def letter(rng):
    items = some(rng, 4)
    listed = "\t".join(f"{a}: {item}" for a, item in zip(LETTERS, items, strict=True))
    n = rng.randrange(4)
    both = f"{LETTERS[n]}: {items[n]}"
    asked = rng.choice((items[n], f"{note(rng)} {capital(items[n])}"))
    return f"{listed}\n{asked}", both


def stated(rng):
    here, there, absent, also = rng.sample(FINDINGS, 4)
    text = rng.choice(
        ("With {} and {}, without {}.", "No {2}. {0}, {1}.", "{} today, {} before, never {}.")
    )
    text = text.format(here, there, absent)
    asked, gold = rng.choice(((here, "yes"), (there, "yes"), (absent, "no"), (also, "not said")))
    return f"{text} {rng.choice(('', note(rng)))}\n{asked}?", gold


def spanish(rng):
    items = rng.sample([*SPANISH.items()], rng.randrange(1, 4))
    if rng.random() < 0.5:
        items = [(b, a) for a, b in items]
    return ", ".join(a for a, _ in items), ", ".join(b for _, b in items)


def larger(rng):
    a, b = rng.sample(range(2, 200), 2)
    asked = rng.choice(("larger", "smaller"))
    return f"{a} or {b}, {asked}", str(max(a, b) if asked == "larger" else min(a, b))


def meaning(rng):
    """Parts of a concept, one at a time."""
    course, disorder, organ = rng.choice([*COURSES]), rng.choice([*DISORDERS]), rng.choice(ORGANS)
    if rng.random() < 0.4:
        return course, COURSES[course]
    return f"{organ} {disorder}", DISORDERS[disorder].format(organ)


SKILLS = {
    "task901_skill_repeat.json": (9, "Repeat the note.|Copy the text.|Say it again.", repeat),
    "task902_skill_keywords.json": (
        6,
        "Write the note that these keywords describe.|Make a sentence of these words.",
        keywords,
    ),
    "task903_skill_rest.json": (
        6,
        "The note stands first, then its beginning. Write the rest.|Go on as in the text above.",
        rest,
    ),
    "task904_skill_field.json": (
        9,
        "Give the value of the field.|Look up the last word.|What stands at this field?",
        field_value,
    ),
    "task905_skill_after.json": (
        5,
        "What comes next in the list?|Name the item that follows.",
        after_word,
    ),
    "task906_skill_shown.json": (
        4,
        "Which of the two sentences, 1 or 2, was shown?|Answer 1 or 2: which one is in the text?",
        which_shown,
    ),
    "task907_skill_abbreviation.json": (
        3,
        "Write out the abbreviation.|Expand the short form.",
        abbreviation,
    ),
    "task908_skill_gap.json": (8, "Fill the gap.|What belongs in the place marked ___?", gap),
    "task909_skill_recall.json": (
        9,
        "Give what was paired with each word.|Look up the words of the last line.",
        recall,
    ),
    "task910_skill_pattern.json": (
        9,
        "Find the mark.|Go on with the pattern.|Learn from the cases and answer.",
        pattern,
    ),
    "task911_skill_narration.json": (6, "Tell what is known.|Describe the disease.", narration),
    "task912_skill_fact.json": (8, "Name it.|Answer in a few words.|What is it?", fact),
    "task913_skill_check.json": (5, "Is this right or wrong?|Check the statement.", fact_check),
    "task914_skill_kinds.json": (
        4,
        "Say what kind each word is.|Give the kind of every item.",
        kinds,
    ),
    "task915_skill_pick.json": (
        5,
        "Pick the words of the kind in the last line.|Keep only what is of this kind.",
        of_kind,
    ),
    "task916_skill_letter.json": (
        8,
        "Find the line with its letter.|Which letter is meant?",
        letter,
    ),
    "task917_skill_stated.json": (5, "Does the note say so?|Answer yes, no or not said.", stated),
    "task918_skill_spanish.json": (4, "Translate.|Say it in the other language.", spanish),
    "task919_skill_larger.json": (3, "Compare the numbers.|Which number is it?", larger),
    "task920_skill_meaning.json": (3, "What does it mean?|Say it in plain words.", meaning),
}
