"""Score leaderboard submissions, with no model:

    python -m eval.score PREDICTIONS.csv… [--scoring official|fixed|standard|all] [--out FILE]

A file has the columns task_id, input, GT, output (see `eval.submission`), or is an evaluation's
predictions.jsonl. A file is a model of its name; a folder is one, of its predictions.jsonl or else
of all its CSV files; NAME=FILE names one, and joins files of equal names. Several models stand side
by side. Rows of tasks outside the benchmark are listed and left out.
"""

import argparse
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tqdm import tqdm

from eval import comparison, official_files, scores, submission
from eval.official_files import SCORER_OF
from eval.predictions import write_atomic
from eval.scorers import official
from eval.scores import COLUMNS
from eval.submission import Submission
from eval.tasks import TASKS
from medsjax.errors import Parser, UserError, run_main

CHUNK = 64  # rows a process gets at a time
MANY = 6000  # texts to score, a column each, from which on starting processes pays
Model = list[Submission]


def find(arguments: Iterable[str]) -> dict[str, list[Path]]:
    """The files of each model, by its name."""
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        given, _, rest = argument.partition("=")
        named = bool(rest) and not Path(argument).exists()
        path = Path(rest if named else argument)
        if path.is_dir():
            name, files = path.resolve().name, list(path.glob("predictions.jsonl"))
            files = files or sorted(path.glob("*.csv"))
        else:
            name, files = path.stem, [path]
        if not files:
            raise UserError(f"{path}: no *.csv and no predictions.jsonl in it; name a file")
        name = given if named else name
        if name in found and not named:
            raise UserError(f"{path}: a second model {name!r}; name it: NAME={argument}")
        found.setdefault(name, []).extend(files)
    return found


def read(files: Sequence[Path], keep_duplicates: bool = False) -> Model:
    """One model's submissions, checked together."""
    model = [submission.read(file) for file in files]
    if not keep_duplicates:
        submission.check_items(model)
    submission.check_golds(model)
    if not any(task in TASKS for its in model for task in its.tasks):
        raise UserError(f"{files[0]}: none of the {len(TASKS)} scored tasks; see eval/tasks.py")
    return model


def unscored(model: Model) -> dict[str, int]:
    """Rows by task id outside the benchmark; what looks like no id may be text and is not told."""
    ids = Counter(task for its in model for task in its.tasks if task not in TASKS)
    told: Counter[str] = Counter()
    for task, n in ids.items():
        told[task if re.fullmatch(r"[\w-]{1,24}", task) else "(no task id)"] += n
    return dict(sorted(told.items()))


def evaluate(models: dict[str, Model], columns: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """The scores.json of each model, in the format of `scores.build`.

    The first column's primary metric stands for a task. Beyond that format: `unscored` {task id:
    rows}, and with the column `official` under that name `files`, what its scripts print (see
    `official_files.Printed`), `skipped` {task: rows that they pass over}, and `deaths`, the rows,
    from 1, on which they would die, by file, task and error. Those count as wrong.
    """
    files = [its for model in models.values() for its in model]
    judged = dict(zip(map(id, files), per_row(files, columns), strict=True))
    found = {}
    for name, model in models.items():
        mine = [judged[id(its)] for its in model]
        found[name] = _scores(model, mine, columns, seed) | {"unscored": unscored(model)}
        if "official" in columns:
            found[name]["official"] = _official(model, mine)
    return found


# Row by row


def per_row(files: Sequence[Submission], columns: Sequence[str]) -> list[dict[str, list]]:
    """For each file and column what each row gives: a Verdict in `official`, its statistics in the
    others, None for a row of no known task. Many rows are shared out among processes.
    """
    found = [{column: [None] * len(its.tasks) for column in columns} for its in files]
    jobs = [
        (at, column, task, rows[i : i + CHUNK])
        for at, its in enumerate(files)
        for task, rows in _by_task(its).items()
        for column in columns
        if task in TASKS or column == "official"
        for i in range(0, len(rows), CHUNK)
    ]
    given = (inputs(files[at], column, task, rows) for at, column, task, rows in jobs)
    total = sum(len(rows) for *_, rows in jobs)
    texts = sum(len(rows) for _, _, task, rows in jobs if is_text(task))
    with (
        _mapping(texts) as over,
        tqdm(total=total, desc="rows", unit="row", delay=2, leave=False) as bar,
    ):
        for (at, column, _, rows), values in zip(jobs, over(work, given), strict=True):
            for i, value in zip(rows, values, strict=True):
                found[at][column][i] = value
            bar.update(len(rows))
    return found


def is_text(task: str) -> bool:
    return task in TASKS and TASKS[task].kind == "text"


def _by_task(its: Submission) -> dict[str, list[int]]:
    """Rows of each task that some scorer knows."""
    rows: dict[str, list[int]] = {}
    for i, task in enumerate(its.tasks):
        if task in TASKS or task in SCORER_OF:
            rows.setdefault(task, []).append(i)
    return rows


def inputs(its: Submission, column: str, task: str, rows: list[int]) -> tuple:
    """What `work` needs of some rows of one task: the cells as pandas types them in `official`."""
    if column == "official":
        cells = SCORER_OF[task].columns(its)
        golds, outputs = cells.golds, cells.outputs
    else:
        golds, outputs = its.golds, its.outputs
    return column, task, [golds[i] for i in rows], [outputs[i] for i in rows]


def work(job: tuple) -> list:
    """What each row of `inputs` gives (see `per_row`)."""
    column, task, golds, outputs = job
    if column == "official":
        return [official.judge(task, *row) for row in zip(golds, outputs, strict=True)]
    return list(COLUMNS[column].score_rows(TASKS[task], outputs, golds))


@contextmanager
def _mapping(texts: int) -> Iterator[Callable[..., Iterable]]:
    """A `map` over processes where there is much to do and more than one core, else in this one."""
    cores = os.cpu_count() or 1
    if texts < MANY or cores == 1:
        yield map
        return
    # Spawned: a fork of a process with threads may hang.
    processes = ProcessPoolExecutor(cores, get_context("spawn"))
    try:
        yield processes.map
    finally:
        processes.shutdown(cancel_futures=True)


# Model by model


def _scores(
    model: Model, judged: list[dict[str, list]], columns: Sequence[str], seed: int
) -> dict[str, Any]:
    """One model's scores.json: its rows by task in the benchmark's order."""
    rows, values = {}, {}
    for its, found in zip(model, judged, strict=True):
        for i, task in enumerate(its.tasks):
            if task in TASKS:
                row = {"task": task, "gold": list(its.golds[i]), "prediction": its.outputs[i]}
                rows.setdefault(task, []).append(row)
                for column in columns:
                    values.setdefault((task, column), []).append(found[column][i])
    tasks = [task for task in TASKS if task in rows]
    known = {
        task: {column: _statistics(column, task, values[task, column]) for column in columns}
        for task in tasks
    }
    hashes = {str(its.file): hashlib.sha256(its.file.read_bytes()).hexdigest() for its in model}
    config = {"files": hashes, "columns": list(columns), "seed": seed}
    return scores.build(
        [row for task in tasks for row in rows[task]],
        config,
        n_shot=dict.fromkeys(tasks),  # a submission does not tell
        columns={column: COLUMNS[column] for column in columns},
        known=known,
    )


def _statistics(column: str, task: str, values: list) -> np.ndarray:
    if column == "official":
        return official.statistics(values, official.RULES[task].width)
    return np.array(values)


def _official(model: Model, judged: list[dict[str, list]]) -> dict[str, Any]:
    files: dict[str, Any] = {}
    deaths: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for its, found in zip(model, judged, strict=True):
        verdicts = found["official"]
        files[str(its.file)] = {
            scorer.name: official_files.printed(scorer, its, verdicts).asdict()
            for scorer in official_files.present(its)
        }
        rows: dict[tuple[str, str], list[int]] = {}
        for i, (task, verdict) in enumerate(zip(its.tasks, verdicts, strict=True)):
            if verdict and task in TASKS:
                skipped[task] += verdict.status == "skipped"
                if verdict.crash:
                    rows.setdefault((task, verdict.crash), []).append(i + 1)
        deaths += [
            {"file": str(its.file), "task": task, "error": error, "rows": numbers}
            for (task, error), numbers in rows.items()
        ]
    return {"files": files, "deaths": deaths, "skipped": dict(+skipped)}


def main() -> None:
    parser = Parser(
        prog="python -m eval.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("predictions", nargs="+", metavar="PREDICTIONS", help="FILE, FOLDER, NAME=FILE")
    choices = ("official", "fixed", "standard", "all")
    add("--scoring", choices=choices, default="all", help="which column of scores (all)")
    add("--out", type=Path, metavar="FILE", help="scores.json; {model: scores} of several models")
    add("--csv", type=Path, metavar="FILE", help="every number as a spreadsheet, in CSV")
    add("--strict", action="store_true", help="refuse rows of tasks outside the benchmark")
    add("--keep-duplicates", action="store_true", help="take repeated rows for separate items")
    args = parser.parse_args()
    models = {
        name: read(files, args.keep_duplicates) for name, files in find(args.predictions).items()
    }
    for name, model in models.items():
        if args.strict and (left := unscored(model)):
            raise UserError(f"{name}: tasks outside the benchmark: {comparison.counted(left)}")
    columns = list(COLUMNS) if args.scoring == "all" else [args.scoring]
    found = evaluate(models, columns)
    comparison.show(Console(), found, columns, comparison.unlike(models))
    if args.out:
        content = next(iter(found.values())) if len(found) == 1 else found
        write_atomic(args.out, json.dumps(content, indent=1) + "\n")
    if args.csv:
        write_atomic(args.csv, comparison.spreadsheet(found))


if __name__ == "__main__":
    run_main(main)
