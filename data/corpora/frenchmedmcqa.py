"""FrenchMedMCQA, exams of French pharmacy students with one or several right options: task60.

train.json trains and test.json, the benchmark's 622 questions, tests; dev.json goes nowhere.
MMedBench carries the same questions and is read too. "Les bonnes réponses est" (sic) is the
published gold, one answer or several. Definition: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.corpora import mmedbench
from data.corpora import read as raw
from data.corpora.split_files import split_files
from data.corpora.write import Corpus, Item, Split
from medsjax.errors import UserError


def read(source: Path) -> Iterator[Item]:
    """`source`: a folder with train.json, test.json or both, one of these files, or MMedBench."""
    if mmedbench.is_here(source):
        yield from mmedbench.answers(source, "French")
        return
    for split, path in split_files(source, ["train.json"], ["test.json"]).items():
        yield from _questions(split, path)


def _questions(split: Split, path: Path) -> Iterator[Item]:
    questions = raw.document(path)
    if not isinstance(questions, list):
        raise UserError(f"{path}: must be a list of questions; fetch it again")
    for ordinal, row in enumerate(questions):
        place = f"{path}, question {ordinal}"
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be an object; fetch the file again")
        options = _capital(row.get("answers"))
        right = row.get("correct_answers")
        right = [str(x).upper() for x in right] if isinstance(right, list) else right
        item = mmedbench.choice(place, raw.text(place, row, "question"), options, right)
        yield mmedbench.answering(split, "French", item, raw.text(place, row, "id"))


def _capital(options: Any) -> Any:
    if not isinstance(options, dict):
        return options
    return {letter.upper(): text for letter, text in options.items()}


CORPORA = (
    Corpus(
        task="task60",
        train="task60_frenchmedmcqa_question_answering",
        test="task60_frenchmedmcqa_question_answering",
        url="https://github.com/qanastek/FrenchMedMCQA",
        fetch="train.json and test.json of the repository's folder corpus; or MMedBench, unpacked",
        split="official: train.json, test.json",
        definition=mmedbench.ANSWER,
        read=read,
        languages=("French",),
    ),
)
