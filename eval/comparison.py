"""Several models' scores.json side by side, in the terminal and as a spreadsheet."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.submission import Submission, neutral
from eval.tasks import TASKS

NAMES = {"acc": "acc", "f1": "F1", "bleu1": "B-1/R-L"}
SHOWN = 10  # row numbers of a kind
Found = Mapping[str, dict[str, Any]]  # a model's name -> its scores.json


def show(console: Console, found: Found, columns: Sequence[str], unlike: set[str]) -> None:
    """A table for every column, then what the official scripts print and what was left out."""
    for column in columns:
        console.print(table(found, column, unlike))
    for name, scores in found.items():
        for line in (name, *(f"  {remark}" for remark in remarks(scores))):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def table(found: Found, column: str, unlike: set[str]) -> Table:
    """Tasks by models: the primary metric of `column` with its 95 % interval.

    A mean only where it stands for the first column and all models have the same tasks.
    """
    caption = (
        "percent [95 % interval]; B-1/R-L: BLEU-1 (of which the interval is) and ROUGE-L;"
        " trivial: the best constant answer" + "; ≠ not known to be the same items" * bool(unlike)
    )
    result = Table(title=f"MedS-Bench, {column}", caption=caption)
    for head in ("task", "dataset", "metric"):
        result.add_column(head)
    for head in ("n", "trivial", *found):
        result.add_column(Text(head), justify="right", overflow="fold")
    for task in _tasks(found):
        having = [scores for scores in found.values() if task in scores["results"]]
        metric = having[0]["primary"][task].split(",")[0]
        n = "/".join(dict.fromkeys(str(scores["n-samples"][task]) for scores in having))
        result.add_row(
            task,
            having[0]["tasks"][task]["dataset"],
            NAMES[metric],
            n + (" ≠" if task in unlike else ""),
            f"{having[0]['results'][task][f'trivial,{column}']:.1f}",
            *(_cell(scores["results"].get(task), metric, column) for scores in found.values()),
        )
    one, *others = found.values()
    alike = all(other["results"].keys() == one["results"].keys() for other in others)
    if alike and column == one["config"]["columns"][0] and "mean" in one["summary"]:
        result.add_section()
        means = [scores["summary"] for scores in found.values()]
        cells = [f"{its['mean']:.2f} {_interval(its['ci95'])}" for its in means]
        tasks, trivial = means[0]["tasks"], means[0]["trivial"]
        result.add_row("mean", f"{tasks} tasks", "", "", f"{trivial:.1f}", *cells)
    return result


def _tasks(found: Found) -> list[str]:
    """In the benchmark's order, the pooled ones last."""
    given = dict.fromkeys(task for scores in found.values() for task in scores["results"])
    return sorted(given, key=lambda task: list(TASKS).index(task) if task in TASKS else len(TASKS))


def _cell(results: dict[str, Any] | None, metric: str, column: str) -> str:
    if results is None:
        return "–"
    names = ("bleu1", "rougeL") if metric == "bleu1" else (metric,)
    values = "/".join(f"{results[f'{name},{column}']:.2f}" for name in names)
    return f"{values} {_interval(results[f'{metric}_ci95,{column}'])}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.1f}–{ends[1]:.1f}]"


def remarks(scores: dict[str, Any]) -> Iterator[str]:
    """What a table cannot say of one model."""
    official = scores.get("official", {"files": {}, "deaths": [], "skipped": {}})
    for file, scripts in official["files"].items():
        for script, its in scripts.items():
            where = f"official {script}" + f" of {file}" * (len(official["files"]) > 1)
            if its["death"]:
                row = f" (row {its['row']})" if its["row"] else ""
                yield f"{where}: the official scorer dies on this file: {its['death']}{row}"
            else:
                names = [*its["results"], *["Avg."] * bool(its["average"])]
                yield f"{where}, {' '.join(names)}: {its['line']}"
    for its in official["deaths"]:
        rows = ", ".join(map(str, its["rows"][:SHOWN])) + ", …" * (len(its["rows"]) > SHOWN)
        yield (
            f"official {its['task']}: {len(its['rows'])} rows counted as wrong, on which its scorer"
            f" dies of {its['error']}: {its['file']} row {rows}"
        )
    if official["skipped"]:
        yield f"official: rows that its scorers pass over: {counted(official['skipped'])}"
    if scores["unscored"]:
        yield f"left out, of no task of the benchmark: {counted(scores['unscored'])}"


def counted(ids: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({n} row{'s' * (n > 1)})" for name, n in ids.items())


def unlike(models: Mapping[str, Sequence[Submission]]) -> set[str]:
    """Tasks whose items, by input and gold, are not the same for all models that have them."""
    asked: dict[str, dict[str, set[bytes]]] = {}
    for name, model in models.items():
        for its in model:
            for task, item in zip(its.tasks, its.items, strict=True):
                asked.setdefault(task, {}).setdefault(name, set()).add(item)
    return {task for task, its in asked.items() if len(set(map(frozenset, its.values()))) > 1}


def spreadsheet(found: Found) -> str:
    """Every metric of every model as CSV, a line each."""
    head = ("model", "task", "category", "dataset", "language", "scoring", "metric", "n")
    lines: list[tuple] = [(*head, "score", "low", "high", "trivial")]
    for name, scores in found.items():
        for task in scores["results"]:
            about, results = scores["tasks"][task], scores["results"][task]
            for key, value in results.items():
                metric, column = key.split(",")
                if metric.endswith(("_stderr", "_ci95")) or metric == "trivial":
                    continue
                low, high = results[f"{metric}_ci95,{column}"]
                primary = metric == scores["primary"][task].split(",")[0]
                trivial = results[f"trivial,{column}"] if primary else ""
                where = (about["category"], about["dataset"], about["language"], column, metric)
                n = scores["n-samples"][task]
                lines.append((name, task, *where, n, value, low, high, trivial))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(neutral, line) for line in lines)
    return text.getvalue()
