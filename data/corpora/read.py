"""Raw corpus files become rows, or one line that says which file, which line, which rule."""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from medsjax.errors import UserError

_BROKEN = (BadZipFile, zlib.error, EOFError, ParseError, KeyError, ValueError, InvalidFileException)


def pick(source: Path, name: str) -> Path:
    """`source` itself where it is a file, else the file `name` in it."""
    path = source / name if source.is_dir() else source
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the folder or the file {name}")
    return path


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end)."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; fetch it again") from error


def document(path: Path) -> Any:
    """A whole JSON document; for files of some megabytes."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # its message may quote the text
        line = getattr(error, "lineno", None)
        place = f"{path}, line {line}" if line else f"{path}"
        raise UserError(f"{place}: not JSON; fetch it again") from None
    except RecursionError:
        raise UserError(f"{path}: brackets nest too deeply; fetch it again") from None


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for error messages, object) of each line; blank lines are passed over."""
    for number, line in lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"{place}: not a JSON object; fetch the file again") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be a JSON object; fetch the file again")
        yield place, row


def text(place: str, row: dict[str, Any], key: str) -> str:
    """`row[key]`, which must be a string that is not blank."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {key} is missing, blank or no string")
    return value


def sheet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, {column: cell}) of each row below the header row of an .xlsx's first sheet.

    Rows whose named cells are all empty are passed over: sheets carry formatting far below the
    last entry.
    """
    try:
        with closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
            rows = book.worksheets[0].iter_rows(values_only=True)
            header = [str(cell).strip() for cell in next(rows, ())]
            for column in columns:
                if header.count(column) != 1:
                    raise UserError(f"{path}: row 1 must name the column {column!r} once")
            at = {column: header.index(column) for column in columns}
            for number, cells in enumerate(rows, 2):
                row = {column: cells[i] if i < len(cells) else None for column, i in at.items()}
                if any(cell is not None for cell in row.values()):
                    yield f"{path}, row {number}", row
    except _BROKEN:
        raise UserError(f"{path}: not an .xlsx workbook, or damaged; fetch it again") from None
