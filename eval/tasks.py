"""MedS-Bench as one table: the paper's 53 scored tasks; all else about a task follows.

`n` is the number of test items behind the paper's tables (None where the paper does not tell).
`pool` names the imaging summaries the paper reports only together: they are left out of every mean,
as in its Table 2.
"""

from dataclasses import dataclass
from typing import Literal

from data.catalog import CATALOG

Kind = Literal["choice", "label", "span", "ner", "multilabel", "text"]

PRIMARY = {
    "choice": "acc",
    "label": "acc",
    "span": "acc",
    "ner": "f1",
    "multilabel": "f1",
    "text": "bleu1",
}
MAX_NEW_TOKENS = {
    "choice": 64,
    "label": 64,
    "span": 256,
    "ner": 256,
    "multilabel": 64,
    "text": 1000,
}


@dataclass(frozen=True)
class Task:
    id: str
    category: str
    dataset: str
    kind: Kind
    n: int | None
    language: str = "en"
    labels: tuple[str, ...] = ()  # the closed label set, where the task has one
    pool: str = ""

    @property
    def shots(self) -> int:
        """3, but 0 for multiple choice (the paper's evaluation settings)."""
        return 0 if self.category == "MCQA" else 3

    @property
    def max_new_tokens(self) -> int:
        return MAX_NEW_TOKENS[self.kind]

    @property
    def skill(self) -> Literal["recall", "retrieval"]:
        """What the task takes: facts known by heart, or found in the input.

        The paper sorts its tasks so without printing the list; this is our sorting.
        """
        return "recall" if self.id in RECALL or self.category == "Rationale" else "retrieval"

    @property
    def file(self) -> str:
        """Stem of the task's file in MedS-Ins, typos and all; "" where it is not known."""
        return CATALOG[self.id].name

    @property
    def primary(self) -> str:
        """The metric that stands for the task in means and tables."""
        return PRIMARY[self.kind]


# Questions of knowledge; PubMedQA (task123) brings the abstract that answers it.
RECALL = frozenset(
    f"task{i}" for i in (57, 122, 58, 59, 60, 61, 129, 46, 50, 130, 131, 117, 118, 119)
)
YES_NO = ("yes", "no", "maybe")
TRUE_FALSE = ("true", "false")
NLI = ("entailment", "contradiction", "neutral")
HALLMARKS = (
    "sustaining proliferative signaling",
    "evading growth suppressors",
    "resisting cell death",
    "enabling replicative immortality",
    "inducing angiogenesis",
    "activating invasion and metastasis",
    "genomic instability and mutation",
    "tumor promoting inflammation",
    "cellular energetics",
    "avoiding immune destruction",
)
TREATMENTS = (
    "intraoperative rad with other rad before/after surgery",
    "intraoperative radiation",
    "no radiation and/or cancer-directed surgery",
    "radiation after surgery",
    "radiation before and after surgery",
    "radiation prior to surgery",
    "surgery both before and after radiation",
)
DISEASES = tuple(
    """spontaneous pneumothorax; cluster headache; boerhaave; spontaneous rib fracture; gerd;
    hiv (initial infection); anemia; viral pharyngitis; inguinal hernia; myasthenia gravis;
    whooping cough; anaphylaxis; epiglottitis; guillain-barré syndrome; acute laryngitis; croup;
    psvt; atrial fibrillation; bronchiectasis; allergic sinusitis; chagas; scombroid food poisoning;
    myocarditis; larygospasm; acute dystonic reactions; localized edema; sle; tuberculosis;
    unstable angina; stable angina; ebola; acute otitis media; panic attack;
    bronchospasm / acute asthma exacerbation; bronchitis; acute copd exacerbation / infection;
    pulmonary embolism; urti; influenza; pneumonia; acute rhinosinusitis; chronic rhinosinusitis;
    bronchiolitis; pulmonary neoplasm; possible nstemi / stemi; sarcoidosis; pancreatic neoplasm;
    acute pulmonary edema; pericarditis; cannot decide""".replace("\n    ", " ").split("; ")
)

_ORGANS = ("chest", "head and neck", "brain", "abdomen", "pelvis", "spine")
_SUM, _IE, _EXPL = "Text Summarization", "Information Extraction", "Concept Explanation"
_OUTCOME = "Clinical Outcome Prediction"

_ROWS = (
    Task("task57", "MCQA", "MedQA", "choice", 1273),
    Task("task122", "MCQA", "MedMCQA", "choice", 4183),
    Task("task123", "MCQA", "PubMedQA", "label", 1000, labels=YES_NO),
    Task("task58", "MCQA", "MMedBench Chinese", "choice", 3426, "zh"),
    Task("task59", "MCQA", "MMedBench Japanese", "choice", 199, "ja"),
    Task("task60", "MCQA", "MMedBench French", "choice", 622, "fr"),
    Task("task61", "MCQA", "MMedBench Russian", "choice", 256, "ru"),
    Task("task129", "MCQA", "MMedBench Spanish", "choice", 2742, "es"),
    Task("task114", _SUM, "MedQSum", "text", 100),
    Task("task110", _SUM, "RCT-Text", "text", 100),
    Task("task112", _SUM, "MIMIC-CXR", "text", 100),
    Task("task78", _SUM, "MIMIC-IV Ultrasound", "text", None),
    *(
        Task(f"task{83 + i}", _SUM, f"MIMIC-IV CT {organ}", "text", None, pool="CT")
        for i, organ in enumerate(_ORGANS)
    ),
    *(
        Task(f"task{89 + i}", _SUM, f"MIMIC-IV MRI {organ}", "text", None, pool="MRI")
        for i, organ in enumerate(_ORGANS)
    ),
    Task("task1", _IE, "PICO participants", "span", 43),
    Task("task2", _IE, "PICO interventions", "span", 43),
    Task("task3", _IE, "PICO outcomes", "span", 43),
    Task("task29", _IE, "ADE drug dose", "span", 23),
    Task("task74", _IE, "PMC-Patients basics", "span", 1500),
    Task("task18", _EXPL, "PUBHEALTH explanation", "text", 1235),
    Task("task46", _EXPL, "Disease Ontology", "text", 1115),
    Task("task50", _EXPL, "BioLORD", "text", 1115),
    Task("task51", "Rationale", "MMedBench Chinese", "text", 200, "zh"),
    Task("task52", "Rationale", "MMedBench English", "text", 195),
    Task("task53", "Rationale", "MMedBench French", "text", 189, "fr"),
    Task("task54", "Rationale", "MMedBench Japanese", "text", 190, "ja"),
    Task("task55", "Rationale", "MMedBench Russian", "text", 173, "ru"),
    Task("task56", "Rationale", "MMedBench Spanish", "text", 189, "es"),
    Task("task125", "NER", "BC4Chem", "ner", 1500),
    Task("task126", "NER", "BC5Chem", "ner", 1500),
    Task("task127", "NER", "BC5Disease", "ner", 1500),
    Task("task128", "NER", "Species800", "ner", 1500),
    Task("task130", "Diagnosis", "DDXPlus", "label", 1500, labels=DISEASES),
    Task("task131", "Treatment Planning", "SEER", "label", 1500, labels=TREATMENTS),
    Task("task117", _OUTCOME, "MIMIC4ED hospitalization", "label", 1500, labels=TRUE_FALSE),
    Task("task118", _OUTCOME, "MIMIC4ED 72h revisit", "label", 1500, labels=TRUE_FALSE),
    Task("task119", _OUTCOME, "MIMIC4ED critical triage", "label", 1500, labels=TRUE_FALSE),
    Task("task106", "Text Classification", "HoC", "multilabel", 158, labels=HALLMARKS),
    Task("task12", "Fact Verification", "PubMedQA answer", "label", 650, labels=YES_NO),
    Task("task16", "Fact Verification", "PUBHEALTH", "label", 1188, labels=("0", "1", "2")),
    Task("task100", "Fact Verification", "EBMS", "text", 304),
    Task("task41", "NLI", "MedNLI", "label", 1422, labels=NLI),
    Task("task42", "NLI", "MedNLI generative", "text", None),
)

TASKS: dict[str, Task] = {task.id: task for task in _ROWS}
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(task.category for task in _ROWS))
