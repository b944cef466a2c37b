"""Several runs: side by side, their differences on the same items, their spread over seeds."""

import json
import statistics
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from eval import predictions, scores
from eval.predictions import Row as Prediction
from eval.runs import Evaluation, Mark, Run, number
from eval.scorers import fixed
from eval.tables import NOTHING, Cell, Head, Row, Table, change, count, score, text
from eval.tasks import TASKS, Task

COMPARED = ("layout", "draw", "seed", "length", "max_new_tokens", "data", "shots_data")
PAIRED = (
    "95 %, paired bootstrap: both evaluations over the same resamples of the items that both"
    " answered, scored again by fixed."
)


class Difference(NamedTuple):
    """How far one evaluation lies above another on the items that both answered, percent."""

    mark: Mark
    n: int
    replicates: np.ndarray  # [scores.RESAMPLES]


def paired(first: Evaluation, other: Evaluation) -> dict[str, Difference]:
    """`other` minus `first` by task: the primary metric of the column fixed, with the 95 % interval
    of a paired bootstrap. Only tasks of which both folders hold predictions of at least two items
    alike; items are the same where task, number, id and golds are.
    """
    one, two = _by_task(first), _by_task(other)
    found = {}
    tasks = [task for task in one if task in two]
    for task in tqdm(tasks, desc="differences", unit="task", delay=2, leave=False):
        shared = [item for item in one[task] if item in two[task]]
        if len(shared) < 2:
            continue
        about = TASKS[shared[0][0]]
        primaries = {evaluation.of("primary", task) for evaluation in (first, other)}
        if primaries == {f"{about.primary},fixed"}:
            rows = [[its[task][item] for item in shared] for its in (one, two)]
            found[task] = _difference(about, *rows, seed=int(first.config.get("seed", 0)))
    return found


def _by_task(evaluation: Evaluation) -> dict[str, dict[tuple, Prediction]]:
    """The predictions of each scored task, and of each pool, by what tells an item."""
    found: dict[str, dict[tuple, Prediction]] = {}
    for (task, index), row in sorted(predictions.read(evaluation.folder).items()):
        if task in TASKS:
            for name in filter(None, (task, TASKS[task].pool)):
                item = task, index, str(row.get("id")), tuple(row["gold"])
                found.setdefault(name, {})[item] = row
    return found


def _difference(
    task: Task, first: list[Prediction], other: list[Prediction], seed: int
) -> Difference:
    n = len(first)
    golds = [tuple(row["gold"]) for row in first]
    one, two = (
        fixed.score_rows(task, [row["prediction"] for row in rows], golds, primary_only=True)
        for rows in (first, other)
    )

    def gap(weights: np.ndarray) -> np.ndarray:
        a, b = (fixed.aggregate(task, its, weights)[task.primary] for its in (one, two))
        return b - a

    blocks = scores.resamples(n, (seed, task.pool or task.id))
    replicates = np.concatenate([gap(weights) for weights in blocks])
    return Difference(_interval(float(gap(np.ones(n))), replicates), n, replicates)


def _interval(value: float, replicates: np.ndarray) -> Mark:
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Mark(value, float(low), float(high))


def gap(now: Mark, was: Mark, difference: Difference | None = None) -> Mark:
    """How far `now` lies above `was`; with its interval where all items of both were paired."""
    if None in (now.value, was.value):
        return Mark(None)
    plain = now.value - was.value
    if difference and abs(difference.mark.value - plain) < 1e-6:
        return difference.mark
    return Mark(plain)


def comparison(runs: Sequence[Run]) -> Table:
    """A line for every task of any run; for every run its score and how far it is from the first's.

    A difference stands only where both runs' predictions are there.
    """
    first, *others = runs
    gaps = [paired(first.after, other.after) for other in others]
    heads = [Head("Task"), Head(first.name, first.after.label, True)]
    for other, its in zip(others, gaps, strict=True):
        heads.append(Head(other.name, other.after.label, True))
        heads += [Head(f"{other.name} − {first.name}", number=True)] if its else []
    about = {task: run.after.about(task) for run in reversed(runs) for task in run.after.tasks}
    rows = []
    for task in dict.fromkeys(task for run in runs for task in run.after.tasks):
        dataset = str(about[task].get("dataset", ""))
        cells = [text(dataset or task, task if dataset else ""), score(first.after.mark(task))]
        for other, its in zip(others, gaps, strict=True):
            cells.append(score(other.after.mark(task)))
            cells += [_gap_cell(its.get(task), first.after, other.after, task)] if its else []
        rows.append(Row(task, cells))
    note = (
        "The last evaluation of each run, percent, with 95 % intervals. Overlapping intervals do"
        " not show that two runs differ."
    )
    note += f" Differences: {PAIRED} Bold: the interval leaves out 0." if any(gaps) else ""
    return Table("Final scores of all runs", heads, rows, _means(first, others, gaps), note)


def _gap_cell(its: Difference | None, first: Evaluation, other: Evaluation, task: str) -> Cell:
    if its is None:
        return change(Mark(None))
    cell = change(its.mark)
    whole = {evaluation.of("n-samples", task) for evaluation in (first, other)} == {its.n}
    return cell if whole else cell._replace(under=f"{cell.under}, n {its.n:,}")


def _means(first: Run, others: list[Run], gaps: list[dict[str, Difference]]) -> list[Row]:
    mean = [text("Mean"), score(first.after.mean)]
    trivial = [text("Mean trivial"), score(Mark(first.after.trivial))]
    for other, its in zip(others, gaps, strict=True):
        mean.append(score(other.after.mean))
        tasks = set(filter(counted, [*first.after.tasks, *other.after.tasks]))
        mark = mean_gap(other.after.mean, first.after.mean, tasks, its)
        mean += [change(mark if mark.low is not None else Mark(None))] if its else []
        trivial.append(score(Mark(other.after.trivial)))
        trivial += [text("")] if its else []
    return [Row("Mean", mean), Row("Mean trivial", trivial)]


def mean_gap(now: Mark, was: Mark, tasks: Collection[str], its: dict[str, Difference]) -> Mark:
    """How far the mean `now` lies above the mean `was`; with its interval where both are means over
    `tasks` and the same items, all of them paired in `its`.
    """
    plain = gap(now, was)
    if plain.value is None or not tasks or not set(tasks) <= its.keys():
        return plain
    differences = [its[task] for task in sorted(tasks)]
    replicates = np.mean([difference.replicates for difference in differences], axis=0)
    paired = float(np.mean([difference.mark.value for difference in differences]))
    return _interval(paired, replicates) if abs(paired - plain.value) < 1e-6 else plain


def counted(task: str) -> bool:
    """Whether a task has a part in the means: not those that are pooled, nor their pools."""
    return task not in scores.POOLS and not (task in TASKS and TASKS[task].pool)


def unlike(a: Evaluation, b: Evaluation) -> str:
    """What differs between two evaluations besides the model: "tasks, layout", or ""."""

    def setting(key: str) -> list[Any]:
        return [evaluation.config.get(key) for evaluation in (a, b)]

    compared = {
        "tasks": [a.tasks, b.tasks],
        "items": [a.scores.get("n-samples"), b.scores.get("n-samples")],
        "number of shots": [a.scores.get("n-shot"), b.scores.get("n-shot")],
        **{key.replace("_", " "): setting(key) for key in COMPARED},
    }
    return ", ".join(name for name, (one, other) in compared.items() if one != other)


def timing(runs: Sequence[Run]) -> Table | None:
    """How long the last evaluations took, those that tell; None where none does."""
    timed = [(run, its) for run in runs if (its := run.after.scores.get("timing"))]
    rows = [Row(run.name, [text(run.name), *_timing_cells(run, its)]) for run, its in timed]
    names = ("Cases timed", "Seconds", "Seconds a case", "Prompt tokens/s", "New tokens/s")
    heads = [Head("Run"), *(Head(name, number=True) for name in names), Head("Device")]
    note = (
        "Generation alone, with compiling, without reading data and scoring. Only what the process"
        " that finished the evaluation generated is timed: after an interruption, fewer cases than"
        " were scored. Prompt tokens are all that the prompts hold, though what prompts share is"
        " computed once; both rates are over the same seconds."
    )
    return Table("How long the evaluation took", heads, rows, [], note) if rows else None


def _timing_cells(run: Run, its: dict[str, Any]) -> list[Cell]:
    keys = ("requests", "seconds", "prompt_tokens", "new_tokens")
    cases, seconds, read, new = (number(its.get(key)) for key in keys)
    all_cases = run.after.scores.get("counts", {}).get("items")
    of_all = f"of {all_cases:,}" if cases is not None and all_cases not in (None, cases) else ""

    def ratio(part: float | None, whole: float | None, form: str) -> Cell:
        known = part is not None and whole
        return Cell(format(part / whole, form), part / whole) if known else NOTHING

    return [
        count(cases)._replace(under=of_all),
        ratio(seconds, 1, ",.1f"),
        ratio(seconds, cases, ",.2f"),
        ratio(read, seconds, ",.0f"),
        ratio(new, seconds, ",.0f"),
        text(str(its.get("device", ""))),
    ]


# Seeds


def seeds(runs: Sequence[Run]) -> list[Table]:
    """A table for every group of runs that are the same but for their seeds."""
    groups: dict[str, dict[str, Run]] = {}
    for run in runs:
        rest, its_seeds = _but_for_seeds(run)
        groups.setdefault(rest, {}).setdefault(its_seeds, run)
    return [_spread(list(group.values())) for group in groups.values() if len(group) > 1]


def _but_for_seeds(run: Run) -> tuple[str, str]:
    """The settings of training and evaluation without seeds and places, and the seeds.

    A trained model and its number of steps follow from the training's settings; else they are
    settings.
    """
    follows = {"model", "step"} if run.config else set()
    evaluation = {k: v for k, v in run.after.config.items() if k not in follows}
    training = {k: v for k, v in run.config.items() if k != "workdir"}
    rest: dict[str, Any] = {"trained": bool(run.config) and run.after.config.get("step") != 0}
    found: dict[str, Any] = {}
    for part, settings in (("training", training), ("evaluation", evaluation)):
        for key, value in _leaves(settings, part):
            (found if key.endswith(".seed") else rest)[key] = value
    return tuple(json.dumps(its, sort_keys=True) for its in (rest, found))


def _leaves(value: Any, key: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(key, value)]
    return [leaf for k, v in value.items() for leaf in _leaves(v, f"{key}.{k}")]


def _spread(runs: list[Run]) -> Table:
    marks = [(task, [run.after.mark(task).value for run in runs]) for task in runs[0].after.tasks]
    rows = [Row(task, [text(task), *_over(values)]) for task, values in marks if None not in values]
    means = [run.after.mean.value for run in runs]
    foot = [] if None in means else [Row("Mean", [text("Mean over tasks"), *_over(means)])]
    heads = [Head(name, number=True) for name in ("Mean", "SD", "Lowest", "Highest", "Seeds")]
    note = (
        "Primary scores, percent, of runs that are the same but for their seeds; SD: the sample"
        " standard deviation over seeds, which the intervals of a single run do not cover."
    )
    title = f"Spread over seeds: {', '.join(run.name for run in runs)}"
    return Table(title, [Head("Task"), *heads], rows, foot, note)


def _over(values: list[float]) -> list[Cell]:
    numbers = (statistics.mean(values), statistics.stdev(values), min(values), max(values))
    return [*(score(Mark(number)) for number in numbers), count(len(values))]
