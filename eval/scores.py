"""Predictions become scores.json: scores with their errors, a trivial baseline, means.

The format is lm-evaluation-harness's, all scores in percent; `build` says what else is in it. An
interval is that of a bootstrap over a task's items: each scorer's statistics, reweighted.
"""

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data.prompts import number
from eval.predictions import Row
from eval.scorers import fixed, official, standard
from eval.tasks import TASKS, Task

Columns = Mapping[str, ModuleType]  # the first one's primary metric stands for a task
Statistics = dict[str, np.ndarray]  # column -> statistics [items, k] (see `eval.scorers`)
COLUMNS: Columns = {"fixed": fixed, "official": official, "standard": standard}
RESAMPLES = 1000
BLOCK = 1 << 24  # weights held at a time
CONSTANTS = 20
POOLS = ("CT", "MRI")


class Scored(NamedTuple):
    """A task's or pool's numbers; which of them is primary, and its bootstrap [RESAMPLES]."""

    results: dict[str, Any]
    primary: str  # "acc,fixed"
    n: int
    replicates: np.ndarray

    @property
    def score(self) -> float:
        return self.results[self.primary]

    @property
    def trivial(self) -> float:
        return self.results[f"trivial,{self.primary.split(',')[1]}"]


def build(
    rows: Iterable[Row],
    config: dict,
    n_shot: Mapping[str, int | None],
    leave_one_out: Iterable[str] = (),
    columns: Columns = COLUMNS,
    known: Mapping[str, Statistics] | None = None,
) -> dict[str, Any]:
    """The content of scores.json from all rows of an evaluation (see `eval.predictions`).

    `known` holds each task's statistics where they have been computed, in the order of its rows.
    Beyond the harness's keys: `M_ci95,column` = [low, high] beside `M_stderr,column`; `tasks` with
    category, dataset, language and whether the shots came leave-one-out from the test items;
    `counts` of what the prompts had to drop and the official scorer cannot take; `summary` with
    means over tasks (their intervals take the tasks as given). The CT and MRI tasks enter `results`
    singly and pooled, but no mean, as in the paper's Table 2.
    """
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    seed = int(config.get("seed", 0))
    bar = tqdm(by_task.items(), desc="score", unit="task", delay=2, leave=False)
    scored, found = {}, {}
    for name, its_rows in bar:
        found[name] = known[name] if known else statistics(TASKS[name], its_rows, columns)
        scored[name] = score(TASKS[name], its_rows, seed, columns, found[name])
    for pool in POOLS:
        members = [name for name in by_task if TASKS[name].pool == pool]
        if members:
            pooled = [row for name in members for row in by_task[name]]
            joined = {c: np.concatenate([found[name][c] for name in members]) for c in columns}
            scored[pool] = score(TASKS[members[0]], pooled, seed, columns, joined)
            n_shot = {**n_shot, pool: n_shot[members[0]]}
    packages = ("jax", "sacrebleu", "rouge-score", "jieba", "Janome")
    commit = git_hash()
    return {
        "results": {name: s.results for name, s in scored.items()},
        "primary": {name: s.primary for name, s in scored.items()},
        "n-samples": {name: s.n for name, s in scored.items()},
        "n-shot": {name: n_shot[name] for name in scored},
        "config": {**config, "versions": {name: version(name) for name in packages}},
        **({"git_hash": commit} if commit else {}),
        "summary": _summary({name: s for name, s in scored.items() if _counts_in_means(name)}),
        "tasks": {name: _about(name, name in set(leave_one_out)) for name in scored},
        "counts": _counts(by_task, found),
    }


def statistics(task: Task, rows: list[Row], columns: Columns) -> Statistics:
    """Each column's statistics of one task's rows."""
    predictions = [row["prediction"] for row in rows]
    golds = [tuple(row["gold"]) for row in rows]
    return {name: scorer.score_rows(task, predictions, golds) for name, scorer in columns.items()}


def score(
    task: Task, rows: list[Row], seed: int, columns: Columns, statistics: Statistics
) -> Scored:
    """All columns' metrics of one task's rows, with standard error, interval and trivial score."""
    golds = [tuple(row["gold"]) for row in rows]
    spreads: dict[str, list[dict[str, np.ndarray]]] = {column: [] for column in columns}
    for weights in resamples(len(rows), (seed, task.pool or task.id)):
        for column, scorer in columns.items():
            spreads[column].append(scorer.aggregate(task, statistics[column], weights))
    results: dict[str, Any] = {}
    replicates = {}
    for column, scorer in columns.items():
        values = scorer.aggregate(task, statistics[column], np.ones(len(rows)))
        spread = {m: np.concatenate([block[m] for block in spreads[column]]) for m in values}
        for metric in values:
            low, high = np.percentile(spread[metric], [2.5, 97.5])
            results[f"{metric},{column}"] = float(values[metric])
            results[f"{metric}_stderr,{column}"] = float(spread[metric].std(ddof=1))
            results[f"{metric}_ci95,{column}"] = [float(low), float(high)]
        results[f"trivial,{column}"] = _trivial(scorer, task, golds)
        replicates[column] = spread[task.primary]
    first = next(iter(columns))
    return Scored(results, f"{task.primary},{first}", len(rows), replicates[first])


def resamples(n: int, key: tuple) -> Iterator[np.ndarray]:
    """How often each of n items is drawn in each resample: RESAMPLES rows in float64 blocks
    [some, n], rows sum to n.
    """
    rng = np.random.default_rng(number("bootstrap", *key))
    at_once = max(1, BLOCK // n)
    for start in range(0, RESAMPLES, at_once):
        some = min(at_once, RESAMPLES - start)
        drawn = rng.integers(n, size=(some, n)) + n * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(float)


def _trivial(scorer, task: Task, golds: list[tuple[str, ...]]) -> float:
    """The best score of giving all items one answer, out of the most frequent gold strings."""
    frequent = Counter(gold for its_golds in golds for gold in its_golds).most_common(CONSTANTS)
    distinct = Counter(golds)  # items with equal golds score alike
    weights = np.array(list(distinct.values()), float)

    def constant(answer: str) -> float:
        answers = [answer] * len(distinct)
        statistics = scorer.score_rows(task, answers, list(distinct), primary_only=True)
        return float(scorer.aggregate(task, statistics, weights)[task.primary])

    return max(constant(answer) for answer, _ in frequent)


def _counts_in_means(name: str) -> bool:
    return name in TASKS and not TASKS[name].pool


def _summary(scored: dict[str, Scored]) -> dict[str, Any]:
    categories = dict.fromkeys(TASKS[name].category for name in scored)
    return {
        **_mean(list(scored.values())),
        "by_category": {
            category: _mean([s for name, s in scored.items() if TASKS[name].category == category])
            for category in categories
        },
    }


def _mean(scored: list[Scored]) -> dict[str, Any]:
    """The unweighted mean of tasks' primary scores; empty without tasks."""
    if not scored:
        return {}
    replicates = np.mean([s.replicates for s in scored], axis=0)
    return {
        "mean": float(np.mean([s.score for s in scored])),
        "stderr": float(replicates.std(ddof=1)),
        "ci95": [float(x) for x in np.percentile(replicates, [2.5, 97.5])],
        "trivial": float(np.mean([s.trivial for s in scored])),
        "n": sum(s.n for s in scored),
        "tasks": len(scored),
    }


def _about(name: str, leave_one_out: bool) -> dict[str, Any]:
    if name in POOLS:
        return {"category": "Text Summarization", "dataset": f"{name}, pooled", "language": "en"}
    task = TASKS[name]
    about = {"category": task.category, "dataset": task.dataset, "language": task.language}
    return {**about, "leave_one_out": leave_one_out}


def _counts(by_task: dict[str, list[Row]], statistics: dict[str, Statistics]) -> dict[str, Any]:
    """What prompts lost to fit, where the rows tell, how many answers are empty, and how many rows
    the official scorer passes over or dies of: in all and, where any, by task.
    """
    prompted = all("dropped_shots" in row for rows in by_task.values() for row in rows)

    def count(rows: list[Row], columns: Statistics) -> dict[str, int]:
        counted = {}
        if prompted:
            counted["dropped_shots"] = sum(row["dropped_shots"] for row in rows)
            counted["cut_inputs"] = sum(row["cut_chars"] > 0 for row in rows)
        counted["empty_predictions"] = sum(not row["prediction"].strip() for row in rows)
        if "official" in columns:
            skipped, fatal = official.lost(columns["official"])
            counted |= {"official_skipped": skipped, "official_fatal": fatal}
        return counted

    counted = {name: count(rows, statistics[name]) for name, rows in by_task.items()}
    whole = {
        key: sum(its[key] for its in counted.values()) for its in counted.values() for key in its
    }
    some = {name: its for name, its in counted.items() if any(its.values())}
    return {"items": sum(map(len, by_task.values())), **whole, "by_task": some}


def git_hash() -> str:
    """The commit of the checkout this file is in, or ""."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The flat numbers of a log: bench/mean, bench/trivial and each task's primary score."""
    summary = {
        f"bench/{k}": scores["summary"][k] for k in ("mean", "trivial") if k in scores["summary"]
    }
    return summary | {f"bench/{k}": scores["results"][k][p] for k, p in scores["primary"].items()}


def print_table(scores: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """Each task's primary score ± standard error, after that of `before` where given."""
    table = Table(title="MedS-Bench", caption="percent ± standard error; n items")
    for name in ("task", "category", "metric"):
        table.add_column(name)
    for name in (*(("before",) if before else ()), "score", "trivial", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    loo = False
    for name, primary in scores["primary"].items():
        about, results = scores["tasks"][name], scores["results"][name]
        loo |= (flag := about.get("leave_one_out", False))
        table.add_row(
            f"{name}{'*' if flag else ''}",
            about["category"],
            primary.replace(",", ", "),
            *([_cell(before["results"].get(name, {}), primary)] if before else []),
            _cell(results, primary),
            f"{results['trivial,' + primary.split(',')[1]]:.1f}",
            str(scores["n-samples"][name]),
        )
    if "mean" in (summary := scores["summary"]):
        old = (before or {}).get("summary", {})
        table.add_section()
        table.add_row(
            *("mean", f"{summary['tasks']} tasks", ""),
            *([_plus_minus(old.get("mean"), old.get("stderr"))] if before else []),
            _plus_minus(summary["mean"], summary["stderr"]),
            f"{summary['trivial']:.1f}",
            str(summary["n"]),
        )
    console = Console()
    console.print(table)
    if loo:
        console.print("* shots drawn leave-one-out from the test items: no training items")


def _cell(results: dict[str, Any], primary: str) -> str:
    metric, column = primary.split(",")
    return _plus_minus(results.get(primary), results.get(f"{metric}_stderr,{column}"))


def _plus_minus(value: float | None, error: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ± {error or 0:.1f}"
