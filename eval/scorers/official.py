"""The column `official`: what the benchmark's own scorer prints, faults included.

For comparison with published tables only; `fixed` says what the metrics claim to say. It restates
Metrics/ of MAGIC-AI4Med/MedS-Ins (commit 185cfc0) with pandas 2.2.3. Only the first gold counts.
A row on which that code dies (one is enough for it to score nothing) counts as wrong here, and
`judge` says of what it dies.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eval.scorers.similarity import bleu1, similarity
from eval.tasks import HALLMARKS, Task

# What pandas reads as a missing value where it is all of a cell.
MISSING = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    }
)
Cell = str | float | int | bool  # a missing one is the float NaN
NULL = "there is no related enetity"


class Texts(NamedTuple):
    """Two texts that a rule wants compared."""

    prediction: str
    gold: str
    language: str


class Verdict(NamedTuple):
    """What the official scorer makes of one row."""

    status: str  # scored | skipped (not counted) | counted_zero | crash
    values: tuple[float, ...]  # see `score_rows`; without the count
    crash: str = ""  # "AttributeError: 'float' object has no attribute 'strip'"


def judge(task: str, gold: Cell, output: Cell, primary_only: bool = False) -> Verdict:
    """One row's verdict, for any task id in RULES; with `primary_only` text has no ROUGE-L (0)."""
    rule, width = RULES[task]
    try:
        values = rule(gold, output)
        if isinstance(values, Texts):
            values = (bleu1(*values), 0.0) if primary_only else similarity(*values)
    except (AttributeError, TypeError, IndexError, ValueError, RecursionError) as error:
        return Verdict("crash", (0.0,) * width, f"{type(error).__name__}: {error}")
    if values is None:
        return Verdict("skipped", (0.0,) * width)
    if values == ():
        return Verdict("counted_zero", (0.0,) * width)
    return Verdict("scored", tuple(map(float, values)))


def score_rows(
    task: Task, predictions: list[str], golds: list[tuple[str, ...]], primary_only: bool = False
) -> np.ndarray:
    """Statistics float64[items, k + 2]: a task's k values, then whether the row counts and whether
    the official code dies of it (0 or 1).

    Accuracies: right or not. ner: true positives, false positives, false negatives. task106: the
    same three for each label. text: BLEU-1 and ROUGE-L.
    """
    verdicts = [
        judge(task.id, cell(its_golds[0]), cell(prediction), primary_only)
        for prediction, its_golds in zip(predictions, golds, strict=True)
    ]
    return statistics(verdicts, RULES[task.id].width)


def statistics(verdicts: list[Verdict], width: int) -> np.ndarray:
    """Verdicts as rows of `score_rows`."""
    rows = [(*v.values, v.status != "skipped", v.status == "crash") for v in verdicts]
    return np.array(rows, float).reshape(len(verdicts), width + 2)


def lost(statistics: np.ndarray) -> tuple[int, int]:
    """How many rows are not counted, and how many are fatal."""
    counted, fatal = statistics[:, -2:].sum(0)
    return len(statistics) - int(counted), int(fatal)


def aggregate(task: Task, statistics: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics in percent from `statistics` [items, k + 2] and `weights` [..., items] -> [...]."""
    return metrics(task.kind, weights @ statistics)


def metrics(kind: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics in percent from sums of statistics [..., k + 2]."""
    values, counted = sums[..., :-2], np.maximum(sums[..., -2:-1], 1e-300)
    if kind in ("ner", "multilabel"):
        tp, fp, fn = np.moveaxis(values.reshape(*values.shape[:-1], -1, 3), -1, 0)
        scores = {
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, tp + fn),
        }
        return {name: score.mean(-1) for name, score in scores.items()}
    means = 100 * values / counted
    names = ("bleu1", "rougeL") if kind == "text" else ("acc",)
    return {name: means[..., i] for i, name in enumerate(names)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """In percent; 0 of 0 is 0."""
    return 100 * part / np.maximum(whole, 1e-300)


def cell(text: str) -> Cell:
    """A CSV cell as pandas reads it in a column that is not all numbers."""
    return math.nan if text in MISSING else text


# The rules: (gold, output) -> values or Texts; None where the row is skipped, () where it counts as
# 0. They raise, as the official code does, where a cell is not the string they expect.


def _outcome(gold: Cell, output: Cell):
    meant, said = str(gold).lower().strip(), str(output).lower().strip()
    other = {"true": "false", "false": "true"}.get(meant)
    return (other is not None and meant in said and other not in said,)


def _label(prefix: str) -> Callable:
    def rule(gold: Cell, output: Cell):
        meant = gold.replace(".", "").replace(prefix, "") if prefix else gold.replace(".", "")
        return (meant.strip().lower() in output.lower(),)

    return rule


def _first_line(gold: Cell, output: Cell):
    meant = gold.replace(".", "").strip().lower()
    return (meant in output.split("\n")[0].strip().lower(),)


def _entailment(gold: Cell, output: Cell):
    meant = str(gold).replace(".", "").strip().lower()
    return (meant in str(output).lower().strip(),)


def _extracted(gold: Cell, output: Cell):
    def plain(value: Cell) -> str:
        text = str(value).lower().strip()
        return text.replace('"', "").replace("'", "").replace("\n", "")

    return (plain(gold) in plain(output),)


def _choice(letters: str) -> Callable:
    def rule(gold: Cell, output: Cell):
        meant, said = (
            str(value).lower().replace("the right answer is", "").strip()
            for value in (gold, output)
        )
        return (said[0] in letters and meant[0] in letters and said[0] == meant[0],)

    return rule


def _entities(gold: Cell, output: Cell):
    if not isinstance(output, str):
        return None

    def parse(text: str) -> set[str]:
        text = text.replace(".", "").strip().lower()
        return set() if text == NULL else set(text[:-1].split(", "))

    meant, said = parse(gold), parse(output)
    return len(meant & said), len(said - meant), len(meant - said)


def _hallmarks(gold: Cell, output: Cell):
    meant, said = (
        [label in str(value).lower().strip() for label in HALLMARKS] for value in (gold, output)
    )
    pairs = zip(meant, said, strict=True)
    return tuple(float(x) for m, s in pairs for x in (m and s, s and not m, m and not s))


def _text(language: str) -> Callable:
    return lambda gold, output: Texts(output, gold, language)


def _explanation(gold: Cell, output: Cell):
    if not (isinstance(gold, str) and isinstance(output, str)):
        return None
    return Texts(output, gold, "en")


def _justification(gold: Cell, output: Cell):
    meant = gold.replace(".", "").strip().lower()
    said = output.strip().lower()
    return Texts(said, meant, "en") if said else ()


def _rationale(language: str) -> Callable:
    def rule(gold: Cell, output: Cell):
        meant, said = gold.strip(), output.strip()
        return Texts(said, meant, language) if meant and said else None

    return rule


class Rule(NamedTuple):
    judge: Callable
    width: int  # values a row


_IMAGING = (78, 114, 112, 110, *range(83, 95))
_LANGUAGES = {51: "zh", 52: "en", 53: "fr", 54: "ja", 55: "ru", 56: "es"}
RULES: dict[str, Rule] = {
    f"task{number}": rule
    for numbers, rule in (
        ((4, 5, 6, 8, 9, 57, 58, 59, 60, 61, 122, 129), Rule(_choice("abcd"), 1)),
        ((123,), Rule(_choice("yn"), 1)),
        ((117, 118, 119), Rule(_outcome, 1)),
        ((18, 46, 50), Rule(_explanation, 2)),
        ((130,), Rule(_label("The diagnosis result is"), 1)),
        ((131,), Rule(_label("The treatment planning is:"), 1)),
        ((12, 16), Rule(_first_line, 1)),
        ((100,), Rule(_justification, 2)),
        ((1, 2, 3, 29, 74), Rule(_extracted, 1)),
        ((125, 126, 127, 128), Rule(_entities, 3)),
        ((41,), Rule(_entailment, 1)),
        ((42, *_IMAGING), Rule(_text("en"), 2)),
        ((106,), Rule(_hallmarks, 3 * len(HALLMARKS))),
        *(((number,), Rule(_rationale(lang), 2)) for number, lang in _LANGUAGES.items()),
    )
    for number in numbers
}
