"""A leaderboard submission: a CSV with the columns task_id, input, GT and output.

`read` gives its rows as text, and its columns typed as pandas 2.2.3 reads them, for what a column
looks like decides what the official scorer makes of its cells:

- a cell is the float NaN where all of it is empty or a word for nothing (`official.MISSING`);
- a column whose other cells all look like integers is of integers (" 7" and "007" are 7), or of
  floats if cells are missing; else, if all look like numbers, of floats ("1e3" is 1000.0); else, if
  all are true or false in any case, of truth values; else every cell is its text;
- that is decided for each 131,072 rows by themselves;
- blank lines are no rows, and what follows a closing quote in a field belongs to the field.

Rows of another length than the header's, which pandas fills or takes for an index, are refused, and
integers beyond 64 bits are text. `predictions.jsonl` of an evaluation is read as the same columns.
"""

import csv
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from tqdm import tqdm

from eval import predictions
from eval.scorers.official import MISSING, Cell
from eval.tasks import TASKS
from medsjax.errors import UserError

COLUMNS = ("task_id", "input", "GT", "output")
PIECE = 131_072  # rows that pandas types at a time, in a table of four or five columns
_END = "\0"  # a last line of our own; files with that character are refused


class Columns(NamedTuple):
    """Three columns of a submission as pandas types them."""

    tasks: list[Cell]
    golds: list[Cell]
    outputs: list[Cell]


@dataclass(frozen=True)
class Submission:
    """A file's rows. The lists are of one length."""

    file: Path
    tasks: list[str]
    golds: list[tuple[str, ...]]  # one, but all of them in predictions.jsonl
    outputs: list[str]
    items: list[bytes]  # a digest of task, input and gold: the same for the same test item
    lines: list[int]  # where each row begins in the file
    named: Columns  # by name, as most official scorers read: NumPy scalars
    placed: Columns  # by position (first, third, fourth), as three read: Python scalars


def read(path: Path) -> Submission:
    """The submission in a CSV or in predictions.jsonl. A UserError, one line, for any other file,
    naming its line or byte.
    """
    if path.suffix == ".jsonl":
        return _read_jsonl(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _read_csv(path, file)
    except UnicodeDecodeError:
        at = f"byte {_bad_byte(path)}" if path.is_file() else "it"
        raise UserError(f"{path}: {at} is not UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV ({error}); write it with a CSV library") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _bad_byte(path: Path) -> int:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _read_csv(path: Path, file: TextIO) -> Submission:
    records = _records(path, file)
    _, header = next(records, (0, []))
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise UserError(
            f"{path}: no column {', '.join(absent)} (of {len(header)} columns); the first line must"
            f" name {', '.join(COLUMNS)}, with commas between"
        )
    task, query, gold, output = map(header.index, COLUMNS)
    places = (task, gold, output) if (task, gold, output) == (0, 2, 3) else (0, 2, 3)
    lines, items, cells = [], [], {at: [] for at in {task, gold, output, *places}}
    for line, fields in records:
        if len(fields) != len(header):
            raise UserError(
                f"{path}: line {line}: a row of {len(fields)} fields under a header of"
                f" {len(header)}; fields with commas, quotes or line ends need quotes"
            )
        lines.append(line)
        items.append(_digest(fields[task], fields[query], fields[gold]))
        for at, column in cells.items():
            column.append(fields[at])
    if not lines:
        raise UserError(f"{path}: no rows below the header; give a file with predictions")
    kinds = {at: typed(column) for at, column in cells.items()}
    return Submission(
        file=path,
        tasks=cells[task],
        golds=[(text,) for text in cells[gold]],
        outputs=cells[output],
        items=items,
        lines=lines,
        named=Columns(*(list(kinds[at]) for at in (task, gold, output))),
        placed=Columns(*(kinds[at].tolist() for at in places)),
    )


def _records(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields) of each row that is not blank, the header first."""
    csv.field_size_limit(2**31 - 1)
    size = path.stat().st_size
    with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False) as bar:
        reader = csv.reader(itertools.chain(_lines(path, file), [_END]))
        begin = 1
        for fields in reader:
            if fields and fields[-1].endswith(_END):
                if fields != [_END]:
                    raise UserError(
                        f"{path}: line {begin}: a quote opens and never closes; double the quotes"
                        " inside a field"
                    )
                return
            if len(fields) > 1 or "".join(fields).strip(" \t"):
                yield begin, fields
            begin = reader.line_num + 1
            bar.update(file.buffer.tell() - bar.n)


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise UserError(f"{path}: line {number}: a NUL character; this is not a CSV")
        yield line


def _read_jsonl(path: Path) -> Submission:
    if path.name != "predictions.jsonl" or not path.is_file():
        raise UserError(f"{path}: give a CSV, or the predictions.jsonl of an evaluation")
    rows = predictions.read(path.parent)
    if not rows:
        raise UserError(f"{path}: no rows; give a file with predictions")
    tasks = [task for task, _ in rows]
    golds = [tuple(row["gold"]) for row in rows.values()]
    outputs = [row["prediction"] for row in rows.values()]
    columns = [typed(texts) for texts in (tasks, [its[0] for its in golds], outputs)]
    return Submission(
        file=path,
        tasks=tasks,
        golds=golds,
        outputs=outputs,
        items=[_digest(task, str(index), *rows[task, index]["gold"]) for task, index in rows],
        lines=list(range(1, len(rows) + 1)),
        named=Columns(*map(list, columns)),
        placed=Columns(*(column.tolist() for column in columns)),
    )


def _digest(*texts: str) -> bytes:
    content = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()


# What a whole model's files must keep to.


def check_items(submissions: Sequence[Submission]) -> None:
    """A UserError if an item is answered twice, in one file or in two."""
    places: dict[bytes, tuple[Path, int]] = {}
    again = []
    for submission in submissions:
        for line, item in zip(submission.lines, submission.items, strict=True):
            if item in places:
                again.append((f"{submission.file}: line {line}", places[item]))
            places.setdefault(item, (submission.file, line))
    if again:
        where, (file, line) = again[0]
        more = f", and {len(again) - 1} more" if len(again) > 1 else ""
        raise UserError(
            f"{where}: repeats task, input and GT of {file.name} line {line}{more}; remove repeated"
            " rows, or keep them with --keep-duplicates if the test set repeats itself"
        )


def check_golds(submissions: Sequence[Submission]) -> None:
    """A UserError if a scored task has no gold answer in any row."""
    answered: Counter[str] = Counter()
    for submission in submissions:
        for task, golds in zip(submission.tasks, submission.golds, strict=True):
            answered[task] += any(gold.strip() for gold in golds)
    bare = [task for task, n in answered.items() if not n and task in TASKS]
    if bare:
        raise UserError(
            f"{submissions[0].file}: {', '.join(bare)}: no row has a gold answer;"
            " fill the column GT or leave the task out"
        )


# A column's type

_SPACE = r"[ \t-\r]*"
_WHOLE = re.compile(rf"{_SPACE}[+-]?[0-9]+")
_INTEGER = re.compile(rf"{_WHOLE.pattern}{_SPACE}")
_FLOAT = re.compile(
    rf"{_SPACE}([+-]?)(?=\.?[0-9])([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?{_SPACE}"
)
_INFINITE = {"inf": math.inf, "infinity": math.inf}
_INFINITE |= {f"{sign}{word}": float(f"{sign}inf") for word in _INFINITE for sign in "+-"}
_DIGITS = 17  # those that pandas reads of a float


def typed(texts: Sequence[str]) -> np.ndarray:
    """The column as pandas types it: int64, float64, bool, or object (str, bool and NaN)."""
    pieces = [_piece(texts[i : i + PIECE]) for i in range(0, max(len(texts), 1), PIECE)]
    if not {piece.dtype.kind for piece in pieces} <= {"i", "f"}:
        same = len({piece.dtype for piece in pieces}) == 1
        pieces = pieces if same else [piece.astype(object) for piece in pieces]
    return np.concatenate(pieces)


def _piece(texts: Sequence[str]) -> np.ndarray:
    present = [text for text in texts if text not in MISSING]
    for kind, convert in (("i8", _integers), ("f8", _floats), ("?", _truths)):
        values = convert(present)
        if values is not None:
            dtype = kind if len(present) == len(texts) else "f8" if kind != "?" else object
            found = iter(values)
            return np.array([math.nan if t in MISSING else next(found) for t in texts], dtype)
    column = np.empty(len(texts), object)
    column[:] = [math.nan if text in MISSING else text for text in texts]
    return column


def _integers(texts: list[str]) -> list[int] | None:
    if not texts or _too_long(texts) or not all(map(_INTEGER.fullmatch, texts)):
        return None
    return list(map(int, texts))


def _too_long(texts: list[str]) -> bool:
    """Whether an integer beyond 64 bits comes before the first cell that is no integer."""
    for text in texts:
        whole = _WHOLE.match(text)
        if whole and (len(whole[0]) > 40 or not -(2**63) <= int(whole[0]) < 2**63):
            return True
        if not _INTEGER.fullmatch(text):
            return False
    return False


def _floats(texts: list[str]) -> list[float] | None:
    values = [None] if _too_long(texts) else [_float(text) for text in texts]
    return None if None in values else values


def _float(text: str) -> float | None:
    """The number as pandas computes it, which is not always the nearest float."""
    match = _FLOAT.fullmatch(text)
    if not match:
        return _INFINITE.get(text.lower())
    sign, whole, fraction, exponent = match.groups()
    digits = (whole + fraction)[:_DIGITS]
    number = 0.0
    for digit in digits:
        number = number * 10 + int(digit)
    shift = int(exponent or 0) + len(whole) - len(digits)
    if shift > 308:
        return None
    number = number * float(f"1e{shift}") if shift > 0 else _divide(number, -shift)
    if number == math.inf:
        return None
    return -number if sign == "-" else number


def _divide(number: float, power: int) -> float:
    if power > 616:
        return 0.0
    if power > 308:
        return number / float(f"1e{power - 308}") / 1e308
    return number / float(f"1e{power}")


def _truths(texts: list[str]) -> list[bool] | None:
    words = [text.lower() for text in texts]
    return [word == "true" for word in words] if set(words) <= {"true", "false"} else None


def neutral(cell: object) -> object:
    """The cell for a spreadsheet we write: text that a spreadsheet would run gets a quote before.

    Numbers stay as they are.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(tuple("=+-@\t\r")) else cell
