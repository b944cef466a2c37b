"""Tables of a report as data, and the words for what stands in them.

A cell knows how it reads (`shown`) and what it is (`value`): the page and the Markdown write the
one, the spreadsheet the other.
"""

from typing import Literal, NamedTuple

from eval.runs import Mark

METRICS = {
    "acc": "accuracy",
    "f1": "F1",
    "bleu1": "BLEU-1",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "em": "exact match",
    "token_f1": "token F1",
}
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "ja": "Japanese",
    "fr": "French",
    "ru": "Russian",
    "es": "Spanish",
}


class Cell(NamedTuple):
    shown: str
    value: str | float | None  # of full precision; None: not known
    low: float | None = None
    high: float | None = None
    under: str = ""  # small, beneath
    look: Literal["", "name", "yes", "no"] = ""


class Head(NamedTuple):
    text: str
    under: str = ""
    number: bool = False

    @property
    def whole(self) -> str:
        return ", ".join(filter(None, (self.text, self.under)))


class Row(NamedTuple):
    key: str  # names the row in a spreadsheet
    cells: list[Cell]
    more: bool = False  # goes with the row above


class Table(NamedTuple):
    title: str
    heads: list[Head]
    rows: list[Row]
    foot: list[Row]
    note: str = ""
    label: int = 0  # the column that names the row
    wide: bool = False


NOTHING = Cell("–", None)
EMPTY = Cell("", None)


def text(value: str, under: str = "", look: Literal["", "name", "yes", "no"] = "") -> Cell:
    return Cell(value, value, under=under, look=look)


def score(mark: Mark, digits: int = 1) -> Cell:
    """A score in percent, its interval beneath."""
    return _number(mark, "", digits)


def change(mark: Mark, digits: int = 1) -> Cell:
    """A difference, with its sign; its interval beneath; strong where that leaves out 0."""
    cell = _number(mark, "+", digits)
    clear = None not in (mark.low, mark.high) and not mark.low <= 0 <= mark.high
    return cell._replace(look="yes" if clear else "")


def count(n: int | None) -> Cell:
    return NOTHING if n is None else Cell(f"{n:,}", n)


def plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _number(mark: Mark, sign: str, digits: int) -> Cell:
    if mark.value is None:
        return NOTHING

    def shown(x: float, digits: int) -> str:
        return format(x, f"{sign}z.{digits}f").replace("-", "−")

    known = None not in (mark.low, mark.high)
    under = f"{shown(mark.low, 1)} to {shown(mark.high, 1)}" if known else ""
    return Cell(shown(mark.value, digits), mark.value, mark.low, mark.high, under)
