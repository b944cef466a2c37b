"""The sample's tasks: one small function draws one instance of each.

`DRAW[task](rng, i) -> (key, input, outputs)`: instance i of a balanced series (its label is i
modulo the number of labels). `key` is the combination of items that is held out or not: it goes to
the training file or to the test file, never to both.
"""

from itertools import combinations

from data.sample.lexicon import (
    CARE,
    CONDITIONS,
    COURSES,
    DIAGNOSES,
    DISEASES,
    DISORDERS,
    DOSES,
    DRUGS,
    ENFERMEDADES,
    FARMACOS,
    FINDINGS,
    HALLMARKS,
    ORGANS,
    OTHER_DRUGS,
    PEOPLE,
    PERSONAS,
    PERSONS,
    RELATIVES,
    REMEDIES,
    SINTOMAS,
    TREATMENTS,
)

NO_ENTITY = "There is no related enetity."  # the benchmark's spelling


def capital(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def options(rng, right: str, wrong: list[str], place: int) -> tuple[str, str]:
    """Option lines as MedS-Bench joins them, each ending in a tab; the right one is at `place`."""
    texts = rng.sample(wrong, len(wrong))
    texts.insert(place, right)
    lines = [f"{letter}: {text}" for letter, text in zip("ABCD", texts, strict=True)]
    return "".join(f"{line}\t" for line in lines), lines[place]


def intervention(rng, i):
    """PICO: one or two interventions out of a trial's sentence, or none."""
    n, weeks = rng.randrange(20, 400), rng.randrange(2, 30)
    people, disease, finding = rng.choice(PEOPLE), rng.choice(DISEASES), rng.choice(FINDINGS)
    a, b = rng.choice([c.drug for c in CONDITIONS]), rng.choice(CARE + OTHER_DRUGS)
    two = (
        f"We compared {a} with {b} in {n} {people} with {disease}.",
        f"{n} {people} with {disease} were given {a} or {b} for {weeks} weeks.",
        f"In {weeks} weeks, {finding} was less common after {a} than after {b}.",
        f"{capital(people)} were randomly assigned to {a} or {b}.",
    )
    one = (
        f"We studied the effect of {b} on {finding} in {n} {people}.",
        f"{capital(people)} with {disease} received {b} every day for {weeks} weeks.",
    )
    none = (
        f"The mean age of the {n} {people} was {weeks + 30} years.",
        f"At week {weeks}, {n} {people} with {disease} were still in the study.",
        f"{capital(finding)} was rated by {people} after {weeks} weeks.",
    )
    kind = i % 7
    if kind == 6:
        text = rng.choice(none)
        return (text,), text, ["not found"]
    if kind > 3:
        t = rng.randrange(len(one))
        return (t, b, disease), one[t], [b]
    return (a, b), two[kind], [f"{a}, {b}"]


def health_fact(rng, i):
    """PUBHEALTH: two pieces of evidence for or against a claim."""
    remedy, finding = rng.choice(REMEDIES), rng.choice(FINDINGS)
    n, people, label = rng.randrange(30, 900), rng.choice(PEOPLE), i % 3
    support = (
        f"In a trial of {n} {people}, {remedy} eased {finding}.",
        f"{capital(people)} had less {finding} with {remedy}.",
        f"{capital(finding)} was cut by half after {remedy}.",
    )
    against = (
        f"In a trial of {n} {people}, {remedy} did not change {finding}.",
        f"{capital(people)} saw no benefit from {remedy}.",
        f"{capital(finding)} even got worse after {remedy}.",
    )
    sides = {0: (against, against), 1: (support, against), 2: (support, support)}[label]
    first, second = rng.sample(range(3), 2)
    evidence = [sides[0][first], sides[1][second]]
    rng.shuffle(evidence)
    claim = rng.choice(("{} helps against {}.", "{} eases {}.")).format(capital(remedy), finding)
    text = f"Paragraph: {' '.join(evidence)}\nClaim: {claim}"
    return (remedy, finding), text, [str(label)]


def drug_dose(rng, i):
    """ADE: the dose of the drug named after the tab; every fourth is given in two ways."""
    (a, b), (x, y) = rng.sample(DRUGS, 2), rng.sample(DOSES, 2)
    finding, person, disease = rng.choice(FINDINGS), rng.choice(PERSONS), rng.choice(DISEASES)
    daily = rng.choice(("daily", "at night")) if i % 4 == 0 else ""
    dose_x = f"{x} {daily}".strip()
    text = (
        f"A {person} with {disease} took {a} {dose_x} and {b} {y}.",
        f"{capital(finding)} began after {a} ({dose_x}) was added to {b} ({y}).",
        f"We gave {dose_x} of {a} and then {y} of {b} for {finding}.",
        f"The {person} had {finding} while on {a} {dose_x}.",
    )[i // 2 % 4]
    if i % 2 and i // 2 % 4 < 3:
        return (a, b), f"{text}\t {b}", [y]
    return (a, b), f"{text}\t {a}", [dose_x, x] if daily else [x]


def inference(rng, i):
    """MedNLI: a finding that the premise states, denies, or leaves open."""
    yes1, yes2, no1, no2, other = findings = rng.sample(FINDINGS, 5)
    label, age, person = i % 3, rng.randrange(18, 90), rng.choice(PERSONS[:2])
    premise = rng.choice(
        (
            f"The patient has {yes1} and {yes2} but no {no1} and no {no2}.",
            f"A {age} year old {person} with {yes1} and {yes2}, denies {no1} and {no2}.",
            f"No {no1} or {no2} on admission, complains of {yes1} and {yes2}.",
        )
    )
    asked = {0: rng.choice((yes1, yes2)), 1: rng.choice((no1, no2)), 2: other}[label]
    hypothesis = rng.choice((f"The patient has {asked}.", f"The patient suffers from {asked}."))
    gold = ("Entailment", "Contradiction", "Neutral")[label]
    return tuple(findings), f"sentence1: {premise}\nsentence2: {hypothesis}", [gold]


def concept(rng, i):
    """BioLORD: a concept spelt out part by part."""
    course, disorder, organ = rng.choice([*COURSES]), rng.choice([*DISORDERS]), rng.choice(ORGANS)
    side = (
        rng.choice(("left ", "right ")) if organ in ("kidney", "eye", "ear", "knee", "hip") else ""
    )
    where = side + organ
    gold = capital(f"{DISORDERS[disorder].format(where)} {COURSES[course]}.")
    return (course, disorder, organ), f"{course} {disorder} of the {where}", [gold]


FACTS = {
    "drug": ("Which drug is used for {}?", "What should a patient with {} be given?"),
    "site": ("Which part of the body is affected by {}?", "Where does {} arise?"),
    "sign": ("Which sign points to {}?", "What does a patient with {} report?"),
}


def fact_question(rng, i):
    """MedQA: a drug, site or sign of a condition; nothing in the input tells which."""
    kind, condition = [*FACTS][i % 3], rng.choice(CONDITIONS)
    right = rng.choice(condition.signs[:3]) if kind == "sign" else getattr(condition, kind)
    others = [c for c in CONDITIONS if c.site != condition.site]
    wrong = [c.signs[rng.randrange(3)] if kind == "sign" else getattr(c, kind) for c in others]
    wrong = rng.sample(sorted(set(wrong)), 3)
    question = rng.choice(FACTS[kind]).format(condition.name.lower())
    lines, gold = options(rng, right, wrong, i // 3 % 4)
    key = (kind, condition.name)
    return key, f"Question: {question}\nOptions: {lines}", [f"The right answer is {gold}"]


def vignette_question(rng, i):
    """HeadQA, in Spanish: the right option is the one that the case mentions."""
    kind, person, age = i % 3, rng.choice([*PERSONAS]), rng.randrange(5, 90)
    pools = ([*FARMACOS], [*SINTOMAS], [*ENFERMEDADES])
    drug, finding, disease = case = [rng.choice(pool) for pool in pools]
    text = rng.choice(
        (
            f"{person} de {age} años con {disease} toma {drug} y tiene {finding}.",
            f"{person} con {disease} tiene {finding} desde hace {age} días y toma {drug}.",
        )
    )
    asked = ("¿Qué fármaco toma?", "¿Qué síntoma tiene?", "¿Qué enfermedad padece?")[kind]
    wrong = rng.sample([word for word in pools[kind] if word != case[kind]], 3)
    lines, gold = options(rng, case[kind], wrong, i // 3 % 4)
    text = f"Pregunta: {text} {asked}\nOpciones: {lines}"
    return (drug, finding, disease), text, [f"La respuesta correcta es: {gold}"]


def hallmarks(rng, i):
    """HoC: one or two hallmarks, each named by one of its cues; gold in the definition's order."""
    labels = [*HALLMARKS]
    chosen = {i % 10} if i // 10 % 2 else {i % 10, rng.randrange(10)}
    cues = [rng.choice(HALLMARKS[labels[c]]) for c in sorted(chosen)]
    site, key = rng.choice(ORGANS), tuple(cues)
    rng.shuffle(cues)
    text = f"We studied {rng.randrange(20, 300)} tumors of the {site}. " + rng.choice(
        (
            f"The samples showed {' and '.join(cues)}.",
            f"Our results link {' and '.join(cues)} with early death.",
            f"The new drug acted on {' and on '.join(cues)}.",
        )
    )
    return (site, *key), text, [", ".join(labels[c] for c in sorted(chosen))]


QUESTIONS = (
    (
        "What are the side effects of {drug}?",
        "Since then there is {finding}. Is that from the pills?",
    ),
    ("What is the right dose of {drug}?", "How much should we take, and how often?"),
    ("Can {drug} be taken with alcohol?", "May we still have wine or beer?"),
    ("What are the treatments for {disease}?", "Is there anything that helps, a new pill maybe?"),
    ("What causes {disease}?", "Why did this happen to us? Where does it come from?"),
    ("Is {disease} inherited?", "Will the children get it too? It may run in families."),
    ("How can {disease} be prevented?", "What can we do so that it never comes back?"),
)


def question_summary(rng, i):
    """MeQSum: what is asked shows in the last words, about what in the first."""
    drug, disease, relative = rng.choice(DRUGS), rng.choice(DISEASES), rng.choice(RELATIVES)
    gold, asked = QUESTIONS[i % 7]
    topic = drug if "{drug}" in gold else disease
    years, finding = rng.randrange(2, 40), rng.choice(FINDINGS)
    story = rng.choice(
        (
            f"My {relative} has had {disease} for {years} years and takes {drug}.",
            f"Hello, my {relative} was given {drug} because of {disease} {years} days ago.",
        )
    )
    text = f"SUBJECT: {topic}\nMESSAGE: {story} {asked.format(finding=finding)} Thanks"
    return (drug, disease), text, [gold.format(drug=drug, disease=disease)]


def triage(rng, i):
    """MIMIC-IV-ED: critical when at least two of four vital signs are far out of range."""
    bad = set(rng.sample(range(4), rng.choice((2, 3)) if i % 2 else rng.choice((0, 1))))
    heart = rng.randrange(130, 160) if 0 in bad else rng.randrange(60, 99)
    oxygen = rng.randrange(78, 88) if 1 in bad else rng.randrange(95, 100)
    pressure = rng.randrange(70, 88) if 2 in bad else rng.randrange(110, 140)
    breaths = rng.randrange(30, 40) if 3 in bad else rng.randrange(12, 19)
    age, person, complaint = rng.randrange(18, 95), rng.choice(PERSONS[:2]), rng.choice(FINDINGS)
    text = (
        f"A {age} year old {person} with {complaint}. Heart rate: {heart}, oxygen: {oxygen}, "
        f"pressure: {pressure}, breaths: {breaths}, pain: {rng.randrange(11)}."
    )
    return (heart, oxygen, pressure, breaths), text, [str(bool(i % 2))]


def entity_sentence(rng, i):
    """(drugs, diseases, sentence) with none to two of each."""
    a, b = rng.sample(DRUGS, 2)
    x, y = rng.sample(DISEASES, 2)
    finding, n, people = rng.choice(FINDINGS), rng.randrange(5, 300), rng.choice(PEOPLE)
    return (
        ((a,), (x,), f"{capital(finding)} after {a} was seen in {n} {people} with {x}."),
        ((a, b), (), f"The mix of {a} and {b} led to {finding} in {people}."),
        ((), (x, y), f"{n} {people} had {x} or {y} before the study."),
        ((a, b), (x,), f"We report {x} in {people} who took {a} with {b}."),
        ((a,), (x, y), f"The use of {a} in {x} and in {y} is not yet known."),
        ((a,), (), f"Levels of {a} fell within {n} hours, with some {finding}."),
        ((a, b), (x, y), f"{capital(people)} with {x} got {a}, those with {y} got {b}."),
        ((), (), f"{capital(finding)} was found in {n} {people} at the second visit."),
    )[i % 8]


def _entity_list(names: tuple[str, ...]) -> list[str]:
    return [", ".join(names) + "." if names else NO_ENTITY]


def chemicals(rng, i):
    """BC5CDR chemicals: the drugs of the sentence, in its order."""
    drugs, diseases, text = entity_sentence(rng, i)
    return drugs + diseases or (text,), text, _entity_list(drugs)


def diseases(rng, i):
    """BC5CDR diseases: the same sentences, the other entity."""
    drugs, names, text = entity_sentence(rng, i)
    return drugs + names or (text,), text, _entity_list(names)


def diagnosis(rng, i):
    """DDXPlus: two signs of one condition in a dialogue, with a finding that is denied."""
    condition = DIAGNOSES[i % len(DIAGNOSES)]
    first, second = pair = rng.choice([*combinations(condition.signs, 2)])
    if rng.random() < 0.5:
        first, second = second, first
    days, finding = rng.randrange(2, 30), rng.choice(FINDINGS)
    text = rng.choice(
        (
            f"Doctor: What brings you here? Patient: {capital(first)} for {days} days. "
            f"Doctor: Anything else? Patient: {capital(second)}, but no {finding}.",
            f"Patient: I am {days + 20} years old and noticed {first}. Doctor: Any {finding}? "
            f"Patient: No, but {second}.",
        )
    )
    return (condition.name, *pair), text, [f"The diagnosis result is {condition.name}."]


def treatment(rng, i):
    """SEER: two cues of one plan in a summary."""
    label = [*TREATMENTS][i % len(TREATMENTS)]
    first, second = pair = rng.choice([*combinations(TREATMENTS[label], 2)])
    if rng.random() < 0.5:
        first, second = second, first
    site, age, grade = rng.choice(ORGANS), rng.randrange(35, 90), rng.randrange(1, 5)
    person = rng.choice(PERSONS[:2])
    text = (
        f"A {age} year old {person} has cancer of the {site}, grade {grade}. "
        f"{capital(first)}, and {second}."
    )
    return (label, site, *pair), text, [f"The treatment planning is: {label}"]


DRAW = {
    "task2": intervention,
    "task16": health_fact,
    "task29": drug_dose,
    "task41": inference,
    "task50": concept,
    "task57": fact_question,
    "task106": hallmarks,
    "task114": question_summary,
    "task119": triage,
    "task126": chemicals,
    "task127": diseases,
    "task129": vignette_question,
    "task130": diagnosis,
    "task131": treatment,
}
