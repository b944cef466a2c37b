"""Plain sentences and word lists out of the lexicon, for the base's training text."""

from data.sample.lexicon import (
    CARE,
    CONDITIONS,
    DISEASES,
    DOSES,
    DRUGS,
    ENFERMEDADES,
    FARMACOS,
    FINDINGS,
    HALLMARKS,
    ORGANS,
    PEOPLE,
    PERSONAS,
    PERSONS,
    RELATIVES,
    REMEDIES,
    SINTOMAS,
    SITES,
    TREATMENTS,
)
from data.sample.tasks import capital

SIGNS = tuple(s for c in CONDITIONS for s in c.signs)
CUES = tuple(c for cues in HALLMARKS.values() for c in cues)
PLANS = tuple(c for cues in TREATMENTS.values() for c in cues)
SPANISH = FARMACOS | SINTOMAS | ENFERMEDADES
KINDS = {
    "drug": DRUGS,
    "disease": DISEASES,
    "finding": FINDINGS + SIGNS,
    "site": SITES + tuple(ORGANS),
    "dose": DOSES,
    "person": PEOPLE + PERSONS + RELATIVES,
    "care": CARE + REMEDIES,
    "cell": CUES,
    "plan": PLANS,
    "Spanish": tuple(SPANISH),
}
SENTENCES = (
    "The {person} has {finding} and {finding2}.",
    "There is no {finding} today.",
    "{disease} was found {n} days ago.",
    "The {relative} took {drug} {dose} at noon.",
    "{drug} was stopped, {drug2} was started.",
    "The {site} looks normal.",
    "{n} {people} got {drug} and {m} got {care}.",
    "She asks about {drug} and {disease}.",
    "Doctor: Any {finding}? Patient: Yes, and {sign}.",
    "Patient: I noticed {sign} and {sign2}.",
    "{people} with {disease} used {remedy}.",
    "Heart rate: {n}, oxygen: {m}.",
    "A {n} year old {person} with cancer of the {organ}.",
    "It is known that {plan}.",
    "The tumor showed {cue} and {cue2}.",
    "{remedy} did not change {finding}.",
    "{remedy} eased {finding} in {people}.",
    "Does {drug} help with {disease}? Thanks",
    "{persona} toma {farmaco} y tiene {sintoma}.",
    "{persona} con {enfermedad} desde hace {n} días.",
)


def words(rng) -> dict[str, object]:
    """One draw of every slot that a sentence may name."""
    pools = {
        "drug": DRUGS,
        "disease": DISEASES,
        "finding": FINDINGS,
        "sign": SIGNS,
        "cue": CUES,
        "organ": ORGANS,
        "site": SITES,
        "dose": DOSES,
        "person": PERSONS,
        "people": PEOPLE,
        "relative": RELATIVES,
        "care": CARE,
        "remedy": REMEDIES,
        "plan": PLANS,
        "persona": tuple(PERSONAS),
        "farmaco": tuple(FARMACOS),
        "sintoma": tuple(SINTOMAS),
        "enfermedad": tuple(ENFERMEDADES),
    }
    slots = {name: rng.choice(pool) for name, pool in pools.items()}
    twice = {f"{name}2": rng.choice(pools[name]) for name in ("drug", "finding", "sign", "cue")}
    return slots | twice | {"n": rng.randrange(2, 200), "m": rng.randrange(2, 200)}


def note(rng, n: int = 1) -> str:
    """`n` sentences on nothing in particular."""
    return " ".join(capital(rng.choice(SENTENCES).format(**words(rng))) for _ in range(n))


def some(rng, n: int) -> list[str]:
    """`n` different words or phrases of any kind."""
    picked: dict[str, None] = {}
    while len(picked) < n:
        picked[rng.choice(KINDS[rng.choice([*KINDS])])] = None
    return [*picked]
