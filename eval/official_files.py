"""What the official scorers print of a submission, file by file, with their averages and deaths.

They are twelve scripts (Metrics/ of MAGIC-AI4Med/MedS-Ins, commit 185cfc0). Each reads one whole
file, keeps the rows of its own tasks (Diagnosis: every row), and averages over all its tasks, also
absent ones. One row on which it dies loses the file. MCQA's does not start, for want of a function
that it imports; its numbers here are those of the rest of it. `scorers/official` judges the rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.scorers import official
from eval.scorers.official import RULES, Verdict
from eval.submission import Columns, Submission
from eval.tasks import TASKS


@dataclass(frozen=True, eq=False)
class Scorer:
    """One script. A result is of one task, or of several pooled; {"all": ()}: of every row."""

    name: str
    results: dict[str, tuple[str, ...]]
    averaged: tuple[str, ...] = ()  # results in its "Avg."; (): it prints none
    by_position: bool = False  # how it reads the columns
    absent: float = 0.0

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(task for tasks in self.results.values() for task in tasks)

    def rule(self, task: official.Cell) -> str:
        """The id by whose rule a row of `task` is scored; "" where the script passes it over."""
        if not self.ids:
            return "task130"
        return str(task) if task in self.ids else ""

    def columns(self, submission: Submission) -> Columns:
        return submission.placed if self.by_position else submission.named


def _scorer(name: str, *numbers: int, average: bool = True, **options) -> Scorer:
    results = {f"task{number}": (f"task{number}",) for number in numbers}
    return Scorer(name, results, tuple(results) if average else (), **options)


_SUMMARIES = _scorer("", 78, 114, 112, 110).results
_CT, _MRI = (tuple(f"task{first + i}" for i in range(6)) for first in (83, 89))
SCORERS = (
    _scorer(
        "MCQA", *(4, 5, 6, 8, 9), *range(57, 62), *(122, 123, 129), average=False
    ),  # the first five tasks were never published
    Scorer(
        "TextSummarization",
        {**_SUMMARIES, "CT": _CT, "MRI": _MRI},
        averaged=tuple(_SUMMARIES),
        absent=-1.0,
    ),
    _scorer("InformationExtraction", 1, 2, 3, 29, 74),
    _scorer("ConceptExplanation", 18, 46, 50),
    _scorer("Rationale", 51, 52, 53, 54, 55, 56),
    _scorer("NamedEntityRecognition", 125, 126, 127, 128, by_position=True),
    Scorer("Diagnosis", {"all": ()}, by_position=True),
    _scorer("TreatmentPlanning", 131),
    _scorer("ClinicalOutcomePrediction", 117, 118, 119),
    _scorer("TextClassification", 106, average=False),
    _scorer("FactVerification", 12, 16, 100, average=False, by_position=True),
    _scorer("NatureLanguageInference", 41, 42, average=False),
)
SCORER_OF: dict[str, Scorer] = {
    task: scorer for scorer in SCORERS for task in scorer.ids or ("task130",)
}


@dataclass(frozen=True)
class Printed:
    """Percent by result and metric, and the average; nothing of them where the script dies."""

    results: dict[str, dict[str, float]] = field(default_factory=dict)
    average: dict[str, float] = field(default_factory=dict)
    death: str = ""  # "AttributeError: 'float' object has no attribute 'strip'"
    row: int = 0  # of the death, from 1; 0: of no row

    @property
    def line(self) -> str:
        """The numbers as it prints them, two decimals."""
        parts = [_cell(values) for values in self.results.values()]
        return " ".join(parts + ([f"Avg. {_cell(self.average)}"] if self.average else []))

    def asdict(self) -> dict[str, Any]:
        return {**asdict(self), "line": self.line}


def _cell(values: dict[str, float]) -> str:
    return "/".join(f"{value:.2f}" for value in values.values())


def present(submission: Submission) -> list[Scorer]:
    """The scripts that are for this file: those with a row of theirs."""
    return list(dict.fromkeys(SCORER_OF[task] for task in submission.tasks if task in SCORER_OF))


def printed(
    scorer: Scorer, submission: Submission, verdicts: Sequence[Verdict | None] = ()
) -> Printed:
    """What `scorer` prints of the file; `verdicts` are those of the file's rows, where known."""
    columns = scorer.columns(submission)
    judged: dict[int, tuple[str, Verdict]] = {}
    for i, (task, gold, output) in enumerate(zip(*columns, strict=True)):
        if rule := scorer.rule(task):
            known = verdicts[i] if verdicts and submission.tasks[i] == rule else None
            judged[i] = (rule, known or official.judge(rule, gold, output))
    results = {}
    for result, tasks in scorer.results.items():
        its = [
            i for task in tasks or ("task130",) for i, (rule, _) in judged.items() if rule == task
        ]
        dead = next((i for i in its if judged[i][1].status == "crash"), None)
        if dead is not None:
            return Printed(death=judged[dead][1].crash, row=dead + 1)
        results[result] = _metrics((tasks or ("task130",))[0], [judged[i][1] for i in its], scorer)
    if scorer.name == "TextClassification" and not judged:
        return Printed(death="KeyError: 'precision'")
    averaged = [results[result] for result in scorer.averaged]
    names = averaged[0] if averaged else ()
    average = {name: sum(its[name] for its in averaged) / len(averaged) for name in names}
    return Printed(results, average)


def _metrics(task: str, verdicts: Iterable[Verdict], scorer: Scorer) -> dict[str, float]:
    verdicts = list(verdicts)
    kind = TASKS[task].kind if task in TASKS else "choice"
    sums = official.statistics(verdicts, RULES[task].width).sum(0)
    values = {name: float(value) for name, value in official.metrics(kind, sums).items()}
    if not verdicts:
        values = dict.fromkeys(values, scorer.absent)
    if kind == "multilabel":
        return {name: values[name] for name in ("precision", "recall", "f1")}
    return {"f1": values["f1"]} if kind == "ner" else values
