"""The sample's words: conditions with their signs and drugs, and the small pools sentences draw on.

A simplified picture of medicine, made so that text follows simple rules; it is no reference.
The tokenizer has 1024 ids, so words are few, short and used again and again.
"""

# ruff: noqa: E501  (tables: one row, one line)

from typing import NamedTuple


class Condition(NamedTuple):
    """Its drug and its signs are no other condition's."""

    name: str
    site: str
    drug: str
    signs: tuple[str, ...]


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _conditions(table: str) -> tuple[Condition, ...]:
    rows = [line.split(" | ") for line in table.strip().splitlines()]
    return tuple(Condition(n, s, d, tuple(signs.split(", "))) for n, s, d, signs in rows)


def _cues(table: str) -> dict[str, tuple[str, ...]]:
    rows = [line.split(": ") for line in table.strip().splitlines()]
    return {label: tuple(cues.split(", ")) for label, cues in rows}


# Task 130's labels, with six signs each: any two of them decide.
DIAGNOSES = _conditions("""
Bronchitis | airways | ambroxol | a wet cough, thick phlegm, noisy breath, a long cold, sore ribs, a rattling chest
Pneumonia | lungs | penicillin | shaking chills, rusty phlegm, crackling lungs, pain on deep breath, a high fever, blue lips
Influenza | nose | tamiflu | body aches, a sudden fever, sore muscles, a dry cough, heavy sweats, hot eyes
Anemia | blood | iron | pale skin, cold hands, low iron, brittle nails, tired legs, pale gums
GERD | gullet | antacids | heartburn, a sour taste, acid at night, pain after meals, belching, a burning throat
Croup | throat | cortisone | a barking cough, a harsh cry, a hoarse voice, noisy nights, stridor, a seal like cough
Cluster headache | head | oxygen | one sided head pain, a red eye, a drooping lid, tears on one side, nightly attacks, a blocked nostril
Panic attack | mind | sertraline | sudden fear, a racing heart, numb fingers, a feeling of doom, trembling, a choking feeling
Anaphylaxis | skin | adrenaline | hives, swollen lips, a bee sting, itchy palms, a peanut meal, a tight throat
Pulmonary embolism | vessels | heparin | a swollen calf, a long flight, sharp chest pain, sudden short breath, a leg in a cast, blood in the phlegm
Acute otitis media | ear | cefdinir | ear pain, ear tugging, muffled hearing, fluid from the ear, popping ears, a bulging drum
Tuberculosis | chest | rifampin | night sweats, weight loss, a bloody cough, a long fever, swollen neck glands, a stay in prison
""")

CONDITIONS = DIAGNOSES + _conditions("""
gout | joints | colchicine | a swollen toe, pain after beer, a hot joint
asthma | airways | albuterol | wheezing, a tight chest, cough with dust
diabetes | pancreas | insulin | thirst, frequent urine, high sugar
epilepsy | brain | valproate | fits, a blank stare, a bitten tongue
malaria | blood | quinine | fever every third day, dark urine, a mosquito bite
migraine | head | triptans | head pain with light, zigzag lights, throbbing
glaucoma | eye | timolol | halos, high eye pressure, lost side vision
angina | heart | nitrates | chest pain on stairs, a squeezing chest, an aching left arm
arthritis | joints | naproxen | stiff mornings, swollen knuckles, creaking knees
cystitis | bladder | fosfomycin | burning urine, cloudy urine, pelvic pain
scabies | skin | sulfur | itch at night, burrows, itchy wrists
cholera | bowel | zinc | rice water stool, sunken eyes, dirty water
hepatitis | liver | interferon | yellow eyes, pale stool, a sore liver
stroke | brain | alteplase | a drooping face, slurred words, a weak arm
depression | mind | prozac | low mood, no joy, crying spells
insomnia | mind | melatonin | sleepless nights, waking early, daytime sleep
psoriasis | skin | acitretin | silver scales, thick plaques, pitted nails
rickets | bones | calcium | bowed legs, soft bones, late teeth
goiter | thyroid | iodine | a neck lump, trouble with collars, a big thyroid
leprosy | nerves | dapsone | numb patches, a claw hand, lost eyebrows
dementia | brain | memantine | lost memory, lost words, wandering
osteoporosis | bones | estrogen | a bent back, lost height, a broken hip
lupus | skin | prednisone | a butterfly rash, mouth ulcers, sun rash
sepsis | blood | saline | low pressure, mottled skin, confusion
""")

# Drugs beyond the table's, so that not every name gives away a condition.
OTHER_DRUGS = _list(
    "aspirin,ibuprofen,morphine,codeine,warfarin,digoxin,metformin,statins,lithium,ketamine,"
    "caffeine,nicotine,ethanol,cocaine"
)
DRUGS = tuple(c.drug for c in CONDITIONS) + OTHER_DRUGS
DISEASES = (
    *(c.name if c.name == "GERD" else c.name.lower() for c in CONDITIONS),
    *_list("cancer,heart failure,kidney failure,obesity"),
)
SITES = tuple(dict.fromkeys(c.site for c in CONDITIONS))
FINDINGS = _list(
    "fever,cough,rash,nausea,headache,dizziness,itching,fatigue,chills,back pain,chest pain,"
    "leg swelling,vomiting,weakness,bleeding,constipation,joint pain,thirst,wheezing,hair loss"
)
PEOPLE = _list("adults,men,women,children,patients,infants,students,nurses")
RELATIVES = _list("mother,father,sister,brother,son,daughter,wife,husband")
PERSONS = _list("man,woman,boy,girl")
CARE = _list("placebo,usual care,talking therapy,daily walks,massage,surgery,yoga")
REMEDIES = _list(
    "honey,ginger tea,garlic,green tea,fish oil,salt water,coffee,olive oil,cold baths,red wine,"
    "yoga,massage"
)
ORGANS = _list(
    "kidney,liver,lung,heart,brain,skin,bladder,bowel,eye,ear,nose,throat,stomach,spine,knee,hip"
)
DOSES = tuple(
    f"{n} {u}" for u in ("mg", "ml", "units") for n in (2, 5, 10, 20, 25, 40, 50, 80, 100)
)

# Task 106: the hallmarks of cancer in their usual order, four cues each.
HALLMARKS = _cues("""
Sustaining proliferative signaling: growth factor signals, RAS signals, EGFR signals, lasting growth
Evading growth suppressors: loss of RB, silent p53, no growth arrest, lost stop signals
Resisting cell death: less cell death, high BCL2, blocked caspases, survival under stress
Enabling replicative immortality: telomerase, long telomeres, no aging, endless divisions
Inducing angiogenesis: new vessels, VEGF, dense vessels, vessel growth
Activating invasion and metastasis: spread to the nodes, cell migration, metastases, invaded tissue
Genomic instability and mutation: DNA breaks, faulty repair, many mutations, lost chromosomes
Tumor promoting inflammation: macrophages, high IL6, chronic inflammation, cytokines
Cellular energetics: glucose uptake, lactate, altered metabolism, fast glycolysis
Avoiding immune destruction: PD1, few T cells, hidden antigens, immune escape
""")

# Task 131: the planned order of surgery and radiation, four cues each.
TREATMENTS = _cues("""
No radiation and/or cancer-directed surgery: the patient is too frail, the cancer is in both lungs, the patient wants comfort only, the marrow is involved
Radiation after surgery: the edge of the removed piece holds tumor, two removed nodes hold tumor, a small lump was cut out, the removed tumor was torn
Radiation prior to surgery: the tumor is too big to remove, the tumor must shrink first, the tumor sticks to the muscle, the tumor blocks the bowel
Intraoperative radiation: a single dose in theatre is planned, the tumor bed lies deep, a beam will be given in the open wound, organs can be moved aside
Radiation before and after surgery: the tumor is big with many nodes, the tumor shrank but the edge holds tumor, two courses are planned, a boost will follow
Surgery both before and after radiation: the tumor grew back after the beams, a second operation is planned, only half was removed at first, the lump will be cut again
""")

# Task 50: what an adjective and a kind of disorder mean.
COURSES = {
    "acute": "from one hour to the next",
    "chronic": "for many years",
    "recurrent": "again and again",
    "inherited": "as in the parents",
    "mild": "with little harm",
    "severe": "until life is at risk",
}
DISORDERS = {
    "infection": "germs grow in the {}",
    "inflammation": "the {} gets red and swollen",
    "tumor": "{} cells divide without control",
    "injury": "outer force hurts the {}",
    "bleeding": "blood leaks out of the {}",
    "failure": "the {} does less than its work",
    "pain": "{} nerves send pain",
    "scarring": "firm tissue fills the {}",
}

ABBREVIATIONS = {
    "BP": "blood pressure",
    "HR": "heart rate",
    "CXR": "chest x-ray",
    "SOB": "short of breath",
    "MI": "heart attack",
    "UTI": "urine infection",
    "HTN": "high blood pressure",
    "DM": "diabetes",
    "CHF": "heart failure",
    "CKD": "chronic kidney disease",
    "ED": "emergency department",
    "PRN": "when needed",
    "BID": "twice a day",
    "QD": "once a day",
    "NPO": "nothing by mouth",
    "Hx": "history",
    "Rx": "prescription",
    "Fx": "broken bone",
    "LOC": "loss of consciousness",
    "ICU": "intensive care",
}

# Task 129's Spanish, with its English where the base learns to translate.
FARMACOS = {
    "aspirina": "aspirin",
    "insulina": "insulin",
    "heparina": "heparin",
    "morfina": "morphine",
    "codeina": "codeine",
    "digoxina": "digoxin",
    "quinina": "quinine",
    "hierro": "iron",
    "litio": "lithium",
    "yodo": "iodine",
}
SINTOMAS = {
    "fiebre": "fever",
    "tos": "cough",
    "mareo": "dizziness",
    "vómitos": "vomiting",
    "picor": "itching",
    "sed": "thirst",
    "fatiga": "fatigue",
    "dolor de espalda": "back pain",
    "sangrado": "bleeding",
    "debilidad": "weakness",
}
ENFERMEDADES = {
    "gota": "gout",
    "asma": "asthma",
    "anemia": "anemia",
    "diabetes": "diabetes",
    "malaria": "malaria",
    "lupus": "lupus",
    "epilepsia": "epilepsy",
    "hepatitis": "hepatitis",
    "gripe": "influenza",
    "artritis": "arthritis",
}
PERSONAS = {"Un hombre": "A man", "Una mujer": "A woman", "Un niño": "A boy", "Una niña": "A girl"}
