"""What a report says of one run: its first sentence, tables by task, category and skill, notes."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup

from eval import several, versus
from eval.runs import Evaluation, Mark, Run, mean_of, number
from eval.tables import (
    EMPTY,
    LANGUAGES,
    METRICS,
    NOTHING,
    Cell,
    Head,
    Row,
    Table,
    change,
    count,
    plural,
    score,
    text,
)

COUNTS = {
    "items": "test items",
    "dropped_shots": "shots dropped to fit the length",
    "cut_inputs": "inputs cut to fit the length",
    "empty_predictions": "empty predictions",
    "official_skipped": "items that the official scorer does not count",
    "official_fatal": "items of which the official scorer dies; here they count as wrong",
}


class TaskRow(NamedTuple):
    """One task of a run. Learned: the interval lies above the trivial score."""

    task: str
    category: str
    dataset: str
    n: int | None
    before: Mark
    after: Mark
    change: Mark
    trivial: float | None
    learned: bool | None  # None: not known
    flags: frozenset[str]  # sample, leave_one_out, pooled, degenerate


def task_rows(run: Run, changes: dict[str, several.Difference]) -> list[TaskRow]:
    """The tasks in the order of the evaluation's; `changes` are paired, where they are known."""
    return [_task_row(run, task, changes.get(task)) for task in run.after.tasks]


def _task_row(run: Run, task: str, paired: several.Difference | None) -> TaskRow:
    after, about = run.after, run.after.about(task)
    was, now = run.before.mark(task) if run.before else Mark(None), after.mark(task)
    trivial = after.trivial_of(task)
    flags = {
        "sample": about.get("source") == versus.SAMPLE,
        "leave_one_out": bool(about.get("leave_one_out")),
        "pooled": not several.counted(task),
        "degenerate": trivial is not None and trivial > 100 - 1e-9,
    }
    return TaskRow(
        task=task,
        category=after.category(task),
        dataset=str(about.get("dataset", "")),
        n=after.of("n-samples", task),
        before=was,
        after=now,
        change=several.gap(now, was, paired),
        trivial=trivial,
        learned=None if None in (now.low, trivial) else now.low > trivial,
        flags=frozenset(flag for flag, its in flags.items() if its),
    )


def counted(rows: list[TaskRow]) -> list[TaskRow]:
    """The tasks that have a part in the means."""
    return [row for row in rows if "pooled" not in row.flags]


def lead(run: Run, rows: list[TaskRow], several_runs: bool) -> Markup:
    """The report's first sentences."""
    name = Markup("{}: ").format(run.name) if several_runs else ""
    if not run.after:
        return Markup("{}No evaluation yet: here are the training curves.").format(name)
    if run.after.mean.value is None:
        return Markup("{}{}, of which there is no mean.").format(name, plural(len(rows), "task"))
    its = counted(rows)
    items = plural(sum(row.n or 0 for row in its), "test item")
    learned = sum(row.learned is True for row in its)
    number = Markup("<b>{}</b>").format
    was = run.before.mean if run.before else None
    return Markup(
        "{name}The mean primary score {went} (trivial {trivial}), over {tasks} and {items}."
        " {learned} of {tasks} {verb} {word}."
    ).format(
        name=name,
        went=Markup("went from {} before to {} after training").format(
            number(score(was).shown), number(score(run.after.mean).shown)
        )
        if was
        else Markup("is {}").format(number(score(run.after.mean).shown)),
        trivial=number(score(Mark(run.after.trivial)).shown),
        tasks=plural(len(its), "task"),
        items=items,
        learned=learned,
        verb="was" if learned == 1 else "were",
        word="learned" if run.before else "above trivial",
    )


def task_table(run: Run, rows: list[TaskRow], changes: dict[str, several.Difference]) -> Table:
    heads = [Head("Category"), Head("Task"), Head("Shots", number=True), Head("Metric")]
    heads += [Head("n", number=True), *_score_heads(run), Head("Verdict")]
    its = counted(rows)
    foot = []
    if run.after.mean.value is not None:
        items = count(sum(row.n or 0 for row in its))
        was, now = run.before.mean if run.before else Mark(None), run.after.mean
        marks = (was, now, several.mean_gap(now, was, [row.task for row in its], changes))
        cells = _score_cells(run, *marks, run.after.trivial)
        foot = [Row("Mean", [text("Mean over tasks"), *[EMPTY] * 3, items, *cells, EMPTY])]
    learned = "learned" if run.before else "above trivial"
    after = " after training" if run.before else ""
    note = (
        f"Scores in percent, with 95 % intervals. A task is {learned} when the interval{after} lies"
        " wholly above the trivial score; the rule does not ask how far, nor compare with the score"
        " before. Metrics are the scorer fixed unless another is named."
    )
    if any(row.change.low is not None for row in rows):
        note += f" Intervals of changes: {several.PAIRED}"
    if any(row.flags for row in rows):
        note += " * See the notes."
    cells = [Row(row.task, _task_cells(run, row)) for row in rows]
    return Table("Scores by task", heads, cells, foot, note, label=1, wide=True)


def _task_cells(run: Run, row: TaskRow) -> list[Cell]:
    after = run.after
    metric, scorer = after.metric(row.task)
    named = METRICS.get(metric, metric) + ("" if scorer == "fixed" else f" ({scorer})")
    language = str(after.about(row.task).get("language", ""))
    star = "*" if row.flags else ""
    return [
        text(row.category),
        text(f"{row.dataset or row.task}{star}", row.task if row.dataset else ""),
        count(after.of("n-shot", row.task)),
        text(named, LANGUAGES.get(language, language), "name"),
        count(row.n),
        *_score_cells(run, row.before, row.after, row.change, row.trivial),
        _verdict(row, "learned" if run.before else "above trivial"),
    ]


def _verdict(row: TaskRow, word: str) -> Cell:
    if row.learned is None:
        return NOTHING._replace(look="no")
    if "degenerate" in row.flags:
        return text("degenerate", look="no")
    return text(word if row.learned else f"not {word}", look="yes" if row.learned else "no")


def _score_heads(run: Run) -> list[Head]:
    names = [("Before", run.before.label)] if run.before else []
    names += [("After" if run.before else "Score", run.after.label)]
    names += [("Change", "")] if run.before else []
    return [Head(name, under, number=True) for name, under in [*names, ("Trivial", "")]]


def _score_cells(run: Run, before: Mark, after: Mark, gap: Mark, trivial: float | None):
    cells = [score(before), score(after), change(gap)] if run.before else [score(after)]
    return [*cells, score(Mark(trivial))]


def category_table(
    run: Run, rows: list[TaskRow], changes: dict[str, several.Difference]
) -> Table | None:
    was = run.before.categories if run.before else {}
    now = run.after.categories
    lines = []
    for name in sorted(now):
        before, after = mean_of(was.get(name, {})), mean_of(now[name])
        tasks = [row.task for row in counted(rows) if row.category == name]
        marks = (before, after, several.mean_gap(after, before, tasks, changes))
        cells = _score_cells(run, *marks, number(now[name].get("trivial")))
        lines.append(Row(name, [text(name), count(len(tasks)), *cells]))
    heads = [Head("Category"), Head("Tasks", number=True), *_score_heads(run)]
    note = (
        "Unweighted means over the tasks of a category, with 95 % intervals. Categories mix"
        " metrics: compare down a column with care."
    )
    return Table("Scores by category", heads, lines, [], note) if lines else None


def skill_table(run: Run) -> Table | None:
    if run.after.mean.value is None:
        return None
    words = {"recall": "facts known by heart", "retrieval": "facts found in the input"}
    rows = [
        Row(skill, [text(skill, words[skill]), score(mark), count(n)])
        for skill, (mark, n) in versus.skills(run.after).items()
        if n
    ]
    heads = [Head("Takes"), Head("Score", run.after.label, True), Head("Tasks", number=True)]
    note = (
        "The paper's two kinds; which task is of which is our sorting. Unweighted means of primary"
        " scores."
    )
    return Table("By what a task takes", heads, rows, [], note) if rows else None


def notes(run: Run, rows: list[TaskRow], several_runs: bool) -> Iterator[str]:
    """How to read the numbers, and what makes them not comparable."""
    config = run.after.config

    def having(flag: str) -> str:
        its = [row.task for row in rows if flag in row.flags]
        return "all tasks" if len(its) == len(rows) > 1 else ", ".join(its)

    if "layout" in config:
        draw = config.get("draw", "not recorded")
        yield (
            f"Prompts: layout {config['layout']}; draw of shots {draw}; their number stands in each"
            " task's row."
        )
    yield (
        "Intervals: 95 %, bootstrap over a task's test items; where scores.json gives none, 1.96"
        " standard errors either side, cut to 0–100. They do not cover what another training seed"
        " would change. No width means that all items scored alike, not that the score is sure."
    )
    yield (
        "Trivial: the best score over the same items of one constant answer, out of the task's 20"
        " most frequent gold answers."
    )
    yield (
        "Means are over tasks, unweighted, and so mix metrics; their intervals take the tasks as"
        " given."
    )
    if its := having("degenerate"):
        yield (
            f"Degenerate: one constant answer is right on every item of {its}. No score there can"
            " lie above trivial; the means hold it all the same."
        )
    if its := having("sample"):
        yield (
            "Scores of tasks whose source is “medsjax sample” are not comparable with the paper:"
            f" they borrow the benchmark's ids, not its data. Here: {its}."
        )
    if its := having("leave_one_out"):
        yield (
            "Shots were drawn leave-one-out from the test items, for want of training items:"
            f" {its}."
        )
    if its := having("pooled"):
        yield f"In no mean, as in the paper's Table 2: {its}."
    if left := run.after.scores.get("unscored"):
        yield f"In the data, but not in the benchmark: {', '.join(map(str, left))}."
    if several_runs:
        yield f"What is not told of every run is about the first, {run.name}."


def counts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """(what, how many), with the tasks it befell."""
    found = evaluation.scores.get("counts", {})
    by_task = found.get("by_task", {})
    told = []
    for key, label in COUNTS.items():
        where = [f"{task}: {its[key]:,}" for task, its in by_task.items() if its.get(key)]
        if key in found:
            told.append((label, f"{found[key]:,}" + (f" ({', '.join(where)})" if where else "")))
    return told


def settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (key, value), those that are not empty."""
    groups = [("Training", flat(run.config))]
    if run.after:
        scores = run.after.scores
        commit = {"git_hash": scores["git_hash"]} if "git_hash" in scores else {}
        groups.append(("Evaluation", flat(scores.get("config", {}) | commit)))
    return [(name, pairs) for name, pairs in groups if pairs]


def flat(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Nested objects as dotted keys; a leaf is its JSON, a string itself."""
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in flat(v, f"{key}.{k}" if key else str(k))]
    if not key:
        return []
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
