"""PubMedQA's 1,000 expert-labelled questions (PQA-L): task123.

The benchmark tests on all of them, not on the corpus' own 500 test questions. The input is the
abstract without its conclusion, then the question; gold is yes, no or maybe. The benchmark's file
prints no definition that is known: here it is task124's (MedS-Ins, CC BY-SA), PubMedQA as well.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora import read as raw
from data.corpora.write import Corpus, Item, Skip
from medsjax.errors import UserError

DECISIONS = ("yes", "no", "maybe")


def read(source: Path) -> Iterator[Item | Skip]:
    """`source`: ori_pqal.json or the folder with it: {PubMed id: question}."""
    path = raw.pick(source, "ori_pqal.json")
    questions = raw.document(path)
    if not isinstance(questions, dict):
        raise UserError(f"{path}: must be an object of questions by PubMed id")
    for id, question in questions.items():
        place = f"{path}, {id}"
        if not isinstance(question, dict):
            raise UserError(f"{place}: must be an object")
        decision = question.get("final_decision")
        if decision is None:
            yield Skip("no final decision")
            continue
        if decision not in DECISIONS:
            raise UserError(f"{place}: final_decision must be yes, no or maybe")
        contexts = question.get("CONTEXTS")
        if not isinstance(contexts, list) or not all(isinstance(x, str) for x in contexts):
            raise UserError(f"{place}: CONTEXTS must be a list of strings")
        asked = raw.text(place, question, "QUESTION")
        yield Item("test", f"Context: {' '.join(contexts)}\nQuestion: {asked}", (decision,), id)


CORPORA = (
    Corpus(
        task="task123",
        train="",
        test="task123_pubmedqa_test_set",
        url="https://github.com/pubmedqa/pubmedqa",
        fetch="data/ori_pqal.json of the repository",
        split="all 1,000 expert-labelled questions test",
        definition=(
            "Next I will give you a 'context' passage screached from bimedical papers. You have to"
            " answer the given closed 'question' according to the context, with yes, no or maybe."
        ),
        read=read,
    ),
)
