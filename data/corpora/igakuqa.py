"""IgakuQA, Japan's medical licensing examinations of 2018-2022: task59.

The benchmark's 199 test questions are a tenth that MMedBench drew at random from the 1,988 that
have options: only its files give that split, and they are read too. From the exam sheets
themselves the split is 9:1 in the sheets' order; its scores are not the paper's. Questions that
point to a picture stay in, as there; the 12 that ask for a number have no options and are skipped.
The one question with either of two answers ("a or d") has two golds.

The authors' published script joins the options by tabs; their file has a tab after the last as
well, and so has this one. Definition: MedS-Ins, CC BY-SA.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpora import mmedbench
from data.corpora import read as raw
from data.corpora.write import Corpus, Item, Skip, nine_to_one
from medsjax.errors import UserError

LETTERS = "ABCDEFGH"
_SHEET = re.compile(r"\d+-[A-F]\.jsonl")  # not its metadata, not its translation


def read(source: Path) -> Iterator[Item | Skip]:
    """`source`: the folder data with the sheets 112-A.jsonl to 116-F.jsonl, or MMedBench."""
    if mmedbench.is_here(source):
        yield from mmedbench.answers(source, "Japanese")
        return
    sheets = [source]
    if source.is_dir():
        sheets = sorted(p for p in source.rglob("*.jsonl") if _SHEET.fullmatch(p.name))
    if not sheets:
        raise UserError(f"{source}: no exam sheet 112-A.jsonl to 116-F.jsonl here; give them")
    items = []
    for path in sheets:
        for place, row in raw.json_lines(path):
            item = _item(place, row)
            if isinstance(item, Skip):
                yield item
            else:
                items.append(item)
    yield from nine_to_one(items)


def _item(place: str, row: dict[str, Any]) -> tuple[str, tuple[str, ...], str] | Skip:
    """(input, golds, id)"""
    choices, right = row.get("choices"), row.get("answer")
    if choices == []:
        return Skip("question without options")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise UserError(f"{place}: choices must be a list of 2 to 8; fetch the file again")
    if not isinstance(right, list) or not all(isinstance(letter, str) for letter in right):
        raise UserError(f"{place}: answer must be a list of letters; fetch the file again")
    right = [letter.upper() for letter in right]
    either = [[letter] for letter in right[0].split(" OR ")] if len(right) == 1 else [right]
    question, options = (
        raw.text(place, row, "problem_text"),
        dict(zip(LETTERS, choices, strict=False)),
    )
    found = [mmedbench.choice(place, question, options, letters) for letters in either]
    golds = tuple(mmedbench.gold("Japanese", item) for item in found)
    return mmedbench.asked("Japanese", found[0]), golds, raw.text(place, row, "problem_id")


CORPORA = (
    Corpus(
        task="task59",
        train="task59_igakuqa_question_answering",
        test="task59_igakuqa_question_answering",
        url="https://github.com/jungokasai/IgakuQA",
        fetch="the folder data of the repository; for the benchmark's split MMedBench, unpacked",
        split="MMedBench: its Train, Test; exam sheets: 9:1 in their order",
        definition=mmedbench.ANSWER,
        read=read,
        languages=("Japanese",),
        domains=("Public Health",),
    ),
)
