"""A report on data: a folder with its numbers and its page, and its tables in a terminal."""

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from medsjax.errors import UserError


def page(template: Path, **values: Any) -> str:
    """The template filled in, everything escaped; the same bytes for the same values."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    return environment.get_template(template.name).render(**values)


def make(out: Path) -> Path:
    """The folder `out`, made before the work begins."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); give another --out") from None
    return out


def write(name: str, found: dict, html: str, out: Path) -> None:
    """NAME.json and NAME.html in the folder `out`, each whole or not at all."""
    texts = {"json": json.dumps(found, ensure_ascii=False, indent=1) + "\n", "html": html}
    for kind, text in texts.items():
        unfinished = out / f".{name}.{kind}.{os.getpid()}"
        try:
            unfinished.write_text(text, encoding="utf-8", errors="replace")
            os.replace(unfinished, out / f"{name}.{kind}")
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(
                f"{out}: cannot be written ({error.strerror}); give another --out"
            ) from None


def table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    right: Collection[int] = (),
) -> Table:
    """A table for a terminal; the columns numbered `right` are numbers."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:  # cells hold words of the files: no markup, no escape sequences
        made.add_row(*(Text("".join(c if c.isprintable() else "�" for c in x)) for x in row))
    return made
