"""Runs as one page, or as its tables alone: scores, the paper's tables with ours, curves, settings.

    python -m eval.report RUN… --out report.html|report.md|report.csv [--examples N]

A RUN is a workdir of training or a folder with scores.json; what it lacks is left out. Of several
runs the first is shown in full, and all stand side by side with their differences. The same files
give the same bytes. No text of examples enters the page unless --examples asks for it.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from data import reports
from eval import charts, plain, predictions, sections, several, versus, viewer
from eval.runs import Run, number, read_all
from eval.sections import TaskRow
from eval.tables import Table, plural
from medsjax.errors import Parser, UserError, run_main

PAGE = Path(__file__).parent / "report.html.j2"
FORMATS = (".html", ".md", ".csv")


def write(runs: list[Path], out: Path, examples: int = 0) -> None:
    """Write the report of `runs` to `out`, which appears whole or not at all; its suffix tells in
    which of FORMATS.

    In a page `examples` items a task are shown with prompt, prediction and gold. A UserError where
    a run has nothing to show, or no predictions.jsonl though examples are asked for.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: a report ends in one of {', '.join(FORMATS)}")
    if examples and out.suffix != ".html":
        raise UserError(f"{out}: --examples need a page; give a file in .html")
    report = gather(read_all([Path(run) for run in runs]))
    if out.suffix == ".html":
        text = page(report, examples)
    elif out.suffix == ".md":
        text = markdown(report)
    else:
        text = plain.spreadsheet(all_tables(report))
    predictions.write_atomic(out, text)


def gather(runs: list[Run]) -> dict[str, Any]:
    """What all formats show, ready to be written down; drawings and examples are the page's."""
    run, evaluated = runs[0], [r for r in runs if r.after]
    many = len(runs) > 1
    changes = several.paired(run.before, run.after) if run.before else {}
    rows = sections.task_rows(run, changes) if run.after else []
    one = {
        "tasks": sections.task_table(run, rows, changes) if rows else None,
        "categories": sections.category_table(run, rows, changes) if rows else None,
        "skills": sections.skill_table(run) if rows else None,
    }
    return {
        **one,
        "title": ", ".join(r.name for r in runs),
        "run": run,
        "rows": rows,
        "lead": sections.lead(run, rows, many),
        "warnings": warnings(run, evaluated),
        "paper": versus.tables(evaluated),
        "paper_note": versus.NOTE,
        "comparison": several.comparison(evaluated) if len(evaluated) > 1 else None,
        "seeds": several.seeds(evaluated),
        "timing": several.timing(evaluated),
        "notes": list(sections.notes(run, rows, many)) if run.after else [],
    }


def all_tables(report: dict[str, Any]) -> list[Table]:
    named = [report[name] for name in ("tasks", "categories", "skills")]
    paper = [table._replace(note=report["paper_note"]) for table in report["paper"][-1:]]
    named += [*report["paper"][:-1], *paper, report["comparison"], *report["seeds"]]
    return [table for table in (*named, report["timing"]) if table]


def markdown(report: dict[str, Any]) -> str:
    lead = report["lead"].striptags()
    return plain.markdown(
        report["title"], lead, report["warnings"], all_tables(report), report["notes"]
    )


def page(report: dict[str, Any], examples: int = 0) -> str:
    """The HTML, one file that loads nothing."""
    run, rows = report["run"], report["rows"]
    samples, no_prompts = viewer.samples(run, examples) if examples else ([], "")
    return reports.page(
        PAGE,
        **report,
        plural=plural,
        score_chart=score_chart(run, rows) if rows else "",
        radar=radar(run),
        curves=curves(run),
        counts=sections.counts(run.after) if run.after else [],
        settings=sections.settings(run),
        samples=samples,
        no_prompts=no_prompts,
    )


def radar(run: Run):
    """The categories of the paper's overview, ours among two of its models; "" without ours."""
    if not run.after:
        return ""
    axes, series = versus.radar(run)
    if not any(value is not None for value in list(series.values())[-1]):
        return ""
    return charts.radar(axes, series, "Categories of the paper's overview, percent")


def score_chart(run: Run, rows: list[TaskRow]):
    bars = [
        charts.Bar(
            label=" · ".join(filter(None, (row.dataset, row.task))),
            group=row.category,
            before=row.before,
            after=row.after,
            trivial=row.trivial,
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
    not_finite = f"{name}: {plural(lost, 'value')} not finite, left as gaps." if lost else ""
    return " ".join(filter(None, (told and f"{told}.", not_finite)))


def warnings(run: Run, evaluated: list[Run]) -> list[str]:
    """What makes numbers on the page not comparable."""
    told = []
    if run.before and (what := several.unlike(run.before, run.after)):
        told.append(f"Before and after differ in {what}: the change is not that of training alone.")
    for other in evaluated[1:]:
        if what := several.unlike(evaluated[0].after, other.after):
            told.append(
                f"{evaluated[0].name} and {other.name} were evaluated unlike: {what} differ."
            )
    if run.broken_lines:
        told.append(f"metrics.jsonl: {plural(run.broken_lines, 'incomplete line')} left out.")
    return told


def main() -> None:
    parser = Parser(
        prog="python -m eval.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a workdir or a folder with scores.json")
    add(
        "--out",
        type=Path,
        default=Path("report.html"),
        help="ends in .html, .md or .csv (report.html)",
    )
    add("--examples", type=int, default=0, metavar="N", help="N items a task with their text (0)")
    args = parser.parse_args()
    write(args.runs, args.out, args.examples)
    print(args.out)


if __name__ == "__main__":
    run_main(main)
