"""A run beside the paper: its Tables 1 to 8 with our scores as one more row, and the radar.

Ours is the column `official`, which counts as the paper's scorer does; how far `fixed` lies from it
stands beneath. Scores of the bundled sample are left out: it only borrows the tasks' ids.
"""

import csv
import functools
from pathlib import Path
from typing import Any, NamedTuple

from eval.runs import Evaluation, Mark, interval, number
from eval.tasks import TASKS

FOLDER = Path(__file__).parent / "paper"
TITLES = {
    1: "Multiple-choice question answering",
    2: "Text summarization",
    3: "Information extraction",
    4: "Concept explanation",
    5: "Rationale",
    6: "Named entity recognition",
    7: "Treatment planning, diagnosis, clinical outcome prediction, text classification",
    8: "Fact verification and natural language inference",
}
SAMPLE = "medsjax sample"  # the Source of the bundled tasks
RADAR = {  # the paper's overview: an axis, the table and the dataset behind it, the metric
    "MCQA": (1, "Avg.", "acc"),
    "Summarization": (2, "Avg.", "bleu1"),
    "Extraction": (3, "Avg.", "acc"),
    "Explanation": (4, "Avg.", "bleu1"),
    "Rationale": (5, "Avg.", "bleu1"),
    "NER": (6, "Avg.", "f1"),
    "Diagnosis": (7, "DDXPlus", "acc"),
    "Treatment": (7, "SEER", "acc"),
    "Classification": (7, "HoC Classification", "f1"),
}
RIVALS = ("MMedIns-Llama 3", "GPT-4")


class Column(NamedTuple):
    dataset: str
    tasks: tuple[str, ...]  # ids; CT and MRI are pools
    label: str  # the paper's name of the metric
    metric: str  # ours


class Ours(NamedTuple):
    """Our number in one of the paper's columns, percent."""

    mark: Mark  # official
    n: int | None
    fixed: float | None  # how far `fixed` lies above `official`


class PaperTable(NamedTuple):
    number: int
    title: str
    columns: list[Column]
    rows: list[tuple[str, str, list[str]]]  # model, size, values as printed, "" where there is none
    ours: list[Ours | None]


@functools.cache
def read(table: int) -> tuple[list[Column], list[tuple[str, str, list[str]]]]:
    """A table of the paper: its columns, and a row a model."""
    with open(FOLDER / f"table{table}.csv", encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    columns: dict[Column, None] = {}
    models: dict[tuple[str, str], dict[Column, str]] = {}
    for cell in cells:
        tasks = tuple(cell["tasks"].split())
        column = Column(cell["dataset"], tasks, cell["paper_metric"], cell["metric"])
        columns[column] = None
        models.setdefault((cell["model"], cell["size"]), {})[column] = cell["value"]
    return list(columns), [
        (model, size, [values[column] for column in columns])
        for (model, size), values in models.items()
    ]


def tables(evaluation: Evaluation) -> list[PaperTable]:
    """Those of the paper's tables to which the evaluation has a number to add."""
    found = []
    for table, title in TITLES.items():
        columns, rows = read(table)
        ours = [compared(evaluation, column) for column in columns]
        if any(ours):
            found.append(PaperTable(table, title, columns, rows, ours))
    return found


def compared(evaluation: Evaluation, column: Column) -> Ours | None:
    """Our number in a column of the paper; a mean needs all of its tasks."""
    singles = [_single(evaluation, task, column.metric) for task in column.tasks]
    if not all(singles):
        return None
    if len(singles) == 1:
        return singles[0]
    gaps = [ours.fixed for ours in singles]
    counts = [ours.n for ours in singles]
    mean = sum(ours.mark.value for ours in singles) / len(singles)
    gap = None if None in gaps else sum(gaps) / len(gaps)
    return Ours(Mark(mean), None if None in counts else sum(counts), gap)


def _single(evaluation: Evaluation, task: str, metric: str) -> Ours | None:
    if _of_the_sample(evaluation, task):
        return None
    results: dict[str, Any] = evaluation.of("results", task) or {}
    value = number(results.get(f"{metric},official"))
    if value is None:
        return None
    mark = Mark(value, *interval(results.get(f"{metric}_ci95,official")))
    fixed = number(results.get(f"{metric},fixed"))
    n = evaluation.of("n-samples", task)
    return Ours(mark, n, None if fixed is None else fixed - value)


def _of_the_sample(evaluation: Evaluation, task: str) -> bool:
    members = [name for name, its in TASKS.items() if its.pool == task] or [task]
    return any(evaluation.about(name).get("source") == SAMPLE for name in members)


def radar(evaluation: Evaluation) -> tuple[list[str], dict[str, list[float | None]]]:
    """Axes, and a value an axis for two models of the paper and for ours ("this run")."""
    series: dict[str, list[float | None]] = {name: [] for name in (*RIVALS, "this run")}
    for table, dataset, metric in RADAR.values():
        columns, rows = read(table)
        at = next(i for i, c in enumerate(columns) if (c.dataset, c.metric) == (dataset, metric))
        for model in RIVALS:
            printed = [values[at] for name, _, values in rows if name == model]
            series[model].append(float(printed[0]) if printed and printed[0] else None)
        ours = compared(evaluation, columns[at])
        series["this run"].append(ours.mark.value if ours else None)
    return list(RADAR), series


def skills(evaluation: Evaluation) -> dict[str, tuple[Mark, int]]:
    """Mean primary score by what a task takes, recall or retrieval, and its number of tasks."""
    values: dict[str, list[float]] = {"recall": [], "retrieval": []}
    for name in evaluation.tasks:
        value = evaluation.mark(name).value
        if name in TASKS and not TASKS[name].pool and value is not None:
            values[TASKS[name].skill].append(value)
    return {
        skill: (Mark(sum(its) / len(its) if its else None), len(its))
        for skill, its in values.items()
    }
