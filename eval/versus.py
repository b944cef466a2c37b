"""Runs beside the paper: its Tables 1 to 8 with our scores below, and the radar.

Ours is the column `official`, which counts as the paper's scorer does; n and how far `fixed` lies
from it stand beneath. Scores of the bundled sample are left out: it only borrows the tasks' ids.
"""

import csv
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eval.runs import Evaluation, Mark, Run, interval, number
from eval.tables import EMPTY, NOTHING, Cell, Head, Row, Table, change, count, score, text
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
NOTE = (
    "The paper's numbers as printed. Ours are the column official, which counts as the paper's"
    " scorer does, faults included, with the 95 % interval; n; and how far the column fixed lies"
    " from it. What the paper calls ROUGE is ROUGE-L. Averages of ours stand where all of the"
    " paper's datasets were scored; their intervals come from the tasks' standard errors. Other"
    " test items, shots or prompts make numbers differ too."
)
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
    error: float | None  # its standard error
    n: int | None
    fixed: float | None  # how far `fixed` lies above `official`


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


def tables(runs: Sequence[Run]) -> list[Table]:
    """Those of the paper's tables to which a run has a number to add, with all that they have."""
    found = []
    for which, title in TITLES.items():
        columns, models = read(which)
        ours = [(run.name, [compared(run.after, column) for column in columns]) for run in runs]
        foot = [row for name, its in ours if any(its) for row in _rows(name, its)]
        if foot:
            heads = [Head("Model"), *(Head(c.dataset, c.label, True) for c in columns)]
            rows = [
                Row(name, [text(name, look="name"), *map(_printed, values)])
                for name, values in ((f"{m} {size}".strip(), values) for m, size, values in models)
            ]
            found.append(Table(f"Table {which}: {title}", heads, rows, foot))
    return found


def _printed(value: str) -> Cell:
    return text(value) if value else NOTHING


def _rows(name: str, ours: list[Ours | None]) -> list[Row]:
    """A run's three lines under a table of the paper."""
    lines = {
        "official": [its and score(its.mark, 2) for its in ours],
        "n": [its and count(its.n) for its in ours],
        "fixed − official": [its and change(Mark(its.fixed), 2) for its in ours],
    }
    rows = []
    for what, cells in lines.items():
        label = text("" if rows else name, what, "name")
        known = [cell or (EMPTY if rows else NOTHING) for cell in cells]
        rows.append(Row(f"{name}, {what}", [label, *known], more=bool(rows)))
    return rows


def compared(evaluation: Evaluation, column: Column) -> Ours | None:
    """Our number in a column of the paper; a mean needs all of its tasks."""
    singles = [_single(evaluation, task, column.metric) for task in column.tasks]
    if not all(singles):
        return None
    return singles[0] if len(singles) == 1 else _mean(singles)


def _mean(ours: list[Ours]) -> Ours:
    """The unweighted mean; its interval is 1.96 standard errors either side, cut to 0..100."""
    k = len(ours)
    value = sum(its.mark.value for its in ours) / k
    errors, counts, gaps = zip(*(its[1:] for its in ours), strict=True)
    error = None if None in errors else math.hypot(*errors) / k
    ends = () if error is None else (max(0.0, value - 1.96 * error), min(100, value + 1.96 * error))
    n = None if None in counts else sum(counts)
    return Ours(Mark(value, *ends), error, n, None if None in gaps else sum(gaps) / k)


def _single(evaluation: Evaluation, task: str, metric: str) -> Ours | None:
    if _of_the_sample(evaluation, task):
        return None
    results: dict[str, Any] = evaluation.of("results", task) or {}
    value = number(results.get(f"{metric},official"))
    if value is None:
        return None
    mark = Mark(value, *interval(results.get(f"{metric}_ci95,official")))
    error = number(results.get(f"{metric}_stderr,official"))
    fixed = number(results.get(f"{metric},fixed"))
    n = evaluation.of("n-samples", task)
    return Ours(mark, error, n, None if fixed is None else fixed - value)


def _of_the_sample(evaluation: Evaluation, task: str) -> bool:
    members = [name for name, its in TASKS.items() if its.pool == task] or [task]
    return any(evaluation.about(name).get("source") == SAMPLE for name in members)


def radar(run: Run) -> tuple[list[str], dict[str, list[float | None]]]:
    """Axes, and a value an axis for two models of the paper and, last, for the run."""
    own = f"{run.name}, official"
    series: dict[str, list[float | None]] = {name: [] for name in (*RIVALS, own)}
    for table, dataset, metric in RADAR.values():
        columns, rows = read(table)
        at = next(i for i, c in enumerate(columns) if (c.dataset, c.metric) == (dataset, metric))
        for model in RIVALS:
            printed = [values[at] for name, _, values in rows if name == model]
            series[model].append(float(printed[0]) if printed and printed[0] else None)
        ours = compared(run.after, columns[at])
        series[own].append(ours.mark.value if ours else None)
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
