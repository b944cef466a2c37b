"""A report's tables as Markdown, to be read, and as one CSV, to be computed with.

The CSV has a line for every cell that says something: table, row, column, value, low, high. Numbers
are of full precision; text that a spreadsheet would run as a formula gets a quote before it.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from eval.submission import neutral
from eval.tables import Cell, Table


def markdown(
    title: str, lead: str, warnings: Iterable[str], tables: Sequence[Table], notes: Iterable[str]
) -> str:
    parts = [f"# {escaped(title)}", escaped(lead)]
    parts += [f"> {escaped(warning)}" for warning in warnings]
    for table in tables:
        parts += [f"## {escaped(table.title)}", _grid(table), escaped(table.note)]
    if notes := [f"- {escaped(note)}" for note in notes]:
        parts += ["## Notes", "\n".join(notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _grid(table: Table) -> str:
    lines = [
        [_with(head.text, head.under) for head in table.heads],
        ["---:" if head.number else "---" for head in table.heads],
        *([_said(cell) for cell in row.cells] for row in (*table.rows, *table.foot)),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _said(cell: Cell) -> str:
    said = _with(cell.shown, cell.under)
    return f"**{said}**" if cell.look == "yes" else said


def _with(text: str, under: str) -> str:
    return escaped(f"{text} ({under})" if under else text)


def escaped(text: str) -> str:
    """One line of Markdown that reads as `text` and does nothing else."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def spreadsheet(tables: Sequence[Table]) -> str:
    lines: list[tuple] = [("table", "row", "column", "value", "low", "high")]
    for table in tables:
        for row in (*table.rows, *table.foot):
            for head, cell in zip(table.heads, row.cells, strict=True):
                if cell.value is not None:
                    place = (table.title, row.key, head.whole)
                    lines.append((*place, cell.value, cell.low, cell.high))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(map(neutral, line) for line in lines)
    return file.getvalue()
