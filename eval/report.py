"""One self-contained page about runs: scores before and after, what was learned, curves, settings.

    python -m eval.report RUN… --out report.html [--examples N]

A RUN is a workdir of training or a folder with scores.json; what it lacks is left out of the page.
Of several runs the first is shown in full and the final scores of all stand side by side. The same
files give the same bytes. No text of examples enters the page unless --examples asks for it.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval import charts, predictions, versus
from eval.runs import Evaluation, Mark, Run, mean_of, number, read
from eval.tasks import TASKS
from medsjax.errors import UserError, run_main

METRICS = {
    "acc": "accuracy",
    "f1": "F1",
    "bleu1": "BLEU-1",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "em": "exact match",
}
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "ja": "Japanese",
    "fr": "French",
    "ru": "Russian",
    "es": "Spanish",
}
COUNTS = {
    "items": "test items",
    "dropped_shots": "shots dropped to fit the length",
    "cut_inputs": "inputs cut to fit the length",
    "empty_predictions": "empty predictions",
}
POOLED = {
    name for task in TASKS.values() if task.pool for name in (task.id, task.pool)
}  # in no mean
COMPARED = ("layout", "draw", "seed", "length", "max_new_tokens", "data", "shots_data")


def write(runs: list[Path], out: Path, examples: int = 0) -> None:
    """Write the report of `runs` to `out`, which appears whole or not at all.

    `examples` predictions a task, with their gold, are shown in full text. A UserError where a run
    has nothing to show, or no predictions.jsonl though examples are asked for.
    """
    html = render([read(Path(run)) for run in runs], examples)
    predictions.write_atomic(Path(out), html)


def render(runs: list[Run], examples: int = 0) -> str:
    run = runs[0]
    rows = [task_row(task, run) for task in run.after.tasks] if run.after else []
    evaluated = [r for r in runs if r.after]
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "percent": lambda x: "–" if x is None else f"{x:.1f}",
        "change": lambda x: "–" if x is None else f"{x:+.1f}".replace("-", "−"),
        "count": count,
    }
    return page.get_template("report.html.j2").render(
        title=", ".join(r.name for r in runs),
        run=run,
        rows=rows,
        counted=[row for row in rows if row["counted"]],
        score_chart=score_chart(run, rows) if rows else "",
        categories=category_rows(run, rows),
        evaluated=evaluated,
        comparison=comparison_rows(evaluated) if len(evaluated) > 1 else [],
        curves=curves(run),
        counts=counts(run.after.scores.get("counts", {})) if run.after else [],
        warnings=warnings(run, evaluated),
        several=len(runs) > 1,
        settings=settings(run),
        examples=some_predictions(run, examples) if examples else [],
        difference=difference,
        paper=versus.tables(run.after) if run.after else [],
        radar=radar(run),
        skills=versus.skills(run.after) if run.after else {},
    )


def radar(run: Run):
    """The categories of the paper's overview, ours among two of its models; "" without ours."""
    if not run.after:
        return ""
    axes, series = versus.radar(run.after)
    if not any(value is not None for value in series["this run"]):
        return ""
    return charts.radar(axes, series, "Categories of the paper's overview, percent")


def count(n: int | None, word: str = "") -> str:
    if n is None:
        return "–"
    return f"{n:,} {word}{'' if n == 1 else 's'}" if word else f"{n:,}"


def difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def task_row(task: str, run: Run) -> dict[str, Any]:
    """One line of the table of tasks. Learned: the interval lies above the trivial score."""
    after, about = run.after, run.after.about(task)
    language = about.get("language", "")
    was, now = run.before.mark(task) if run.before else Mark(None), after.mark(task)
    trivial = after.trivial_of(task)
    cleared = None if now.low is None or trivial is None else now.low > trivial
    metric, scorer = after.metric(task)
    word = "learned" if run.before else "above trivial"
    row = {
        "task": task,
        "category": after.category(task),
        "dataset": about.get("dataset", ""),
        "language": LANGUAGES.get(language, language),
        "shots": after.of("n-shot", task),
        "metric": METRICS.get(metric, metric) + ("" if scorer == "fixed" else f" ({scorer})"),
        "n": after.of("n-samples", task),
        "before": was,
        "after": now,
        "change": difference(now.value, was.value),
        "trivial": trivial,
        "cleared": cleared,
        "verdict": "–" if cleared is None else word if cleared else f"not {word}",
        "sample": about.get("source") == versus.SAMPLE,
        "leave_one_out": bool(about.get("leave_one_out")),
        "counted": task not in POOLED,
    }
    row["starred"] = row["sample"] or row["leave_one_out"] or not row["counted"]
    return row


def category_rows(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    was = run.before.categories if run.before else {}
    now = run.after.categories if run.after else {}
    return [
        {
            "name": name,
            "tasks": sum(row["category"] == name and row["counted"] for row in rows),
            "before": mean_of(was.get(name, {})),
            "after": mean_of(now[name]),
            "trivial": number(now[name].get("trivial")),
        }
        for name in sorted(now)
    ]


def comparison_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """A line for every task of any run, a score for every run."""
    tasks = {task: run.after for run in reversed(runs) for task in run.after.tasks}
    order = dict.fromkeys(task for run in runs for task in run.after.tasks)
    return [
        {
            "task": task,
            "dataset": tasks[task].about(task).get("dataset", ""),
            "scores": [run.after.mark(task) for run in runs],
        }
        for task in order
    ]


def score_chart(run: Run, rows: list[dict[str, Any]]):
    bars = [
        charts.Bar(
            label=" · ".join(filter(None, (row["dataset"], row["task"]))),
            group=row["category"],
            before=row["before"],
            after=row["after"],
            trivial=row["trivial"],
        )
        for row in rows
    ]
    before = f"before, {run.before.label}" if run.before else ""
    after = ", ".join(filter(None, ("after" if run.before else "score", run.after.label)))
    title = "Score of every task, with its 95 % interval and its trivial score"
    return charts.scores(bars, (before, after), title)


def curves(run: Run) -> list[dict[str, Any]]:
    """Loss and throughput, those that were logged, each with a caption that tells its numbers."""
    loss, heldout = series(run, "loss"), series(run, "heldout_loss")
    speed = series(run, "tokens_per_second")
    drawn = []
    if loss or heldout:
        title = "Loss by training step"
        svg = charts.curve("loss", title, "loss, nats a token", loss, heldout)
        told = [ends("Training loss", loss), ends("Held-out loss", heldout)]
        drawn.append({"svg": svg, "caption": " ".join(filter(None, told))})
    if speed:
        median = statistics.median([y for _, y in finite(speed)] or [0])
        title = "Tokens trained on a second, by training step"
        svg = charts.curve("speed", title, "tokens a second", speed, from_zero=True)
        drawn.append({"svg": svg, "caption": f"Throughput: median {median:,.0f} tokens a second."})
    return drawn


def series(run: Run, key: str) -> list[tuple[float, float]]:
    """(step, value) where `key` was logged; a value that is no finite number is NaN, a gap."""
    points = ((row["step"], number(row[key])) for row in run.metrics if key in row)
    return [(step, float("nan") if value is None else value) for step, value in points]


def finite(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if number(y) is not None]


def ends(name: str, points: list[tuple[float, float]]) -> str:
    good = finite(points)
    told = f"{name} {good[0][1]:.3f} at step {good[0][0]:,}" if good else ""
    told += f", {good[-1][1]:.3f} at step {good[-1][0]:,}" if len(good) > 1 else ""
    lost = len(points) - len(good)
    not_finite = f"{name}: {count(lost, 'value')} not finite, left as gaps." if lost else ""
    return " ".join(filter(None, (told and f"{told}.", not_finite)))


def warnings(run: Run, evaluated: list[Run]) -> list[str]:
    """What makes numbers on the page not comparable."""
    told = []
    if run.before and (what := unlike(run.before, run.after)):
        told.append(f"Before and after differ in {what}: the change is not that of training alone.")
    for other in evaluated[1:]:
        if what := unlike(evaluated[0].after, other.after):
            told.append(
                f"{evaluated[0].name} and {other.name} were evaluated unlike: {what} differ."
            )
    if run.broken_lines:
        told.append(f"metrics.jsonl: {count(run.broken_lines, 'incomplete line')} left out.")
    return told


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


def counts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, how many), with the tasks it befell."""
    by_task = found.get("by_task", {})
    told = []
    for key, label in COUNTS.items():
        where = [f"{task}: {its[key]:,}" for task, its in by_task.items() if its.get(key)]
        if key in found:
            told.append((label, f"{found[key]:,}" + (f" ({', '.join(where)})" if where else "")))
    return told


def some_predictions(run: Run, examples: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """The first `examples` predictions of every task of the last evaluation, with id and gold."""
    if not run.after or not (run.after.folder / "predictions.jsonl").exists():
        raise UserError(f"{run.name}: no predictions.jsonl for --examples; evaluate the run again")
    found = predictions.read(run.after.folder)
    shown = {task: [] for task in run.after.tasks}
    for task, index in sorted(found):
        if task in shown and len(shown[task]) < examples:
            shown[task].append(found[task, index])
    return [(task, rows) for task, rows in shown.items() if rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description="One page about runs."
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a workdir or a folder with scores.json")
    add("--out", type=Path, default=Path("report.html"), help="the page (report.html)")
    add("--examples", type=int, default=0, metavar="N", help="N predictions a task as text (0)")
    args = parser.parse_args()
    write(args.runs, args.out, args.examples)
    print(args.out)


if __name__ == "__main__":
    run_main(main)
