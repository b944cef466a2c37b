"""MeQSum, consumers' health questions and their summaries: task114.

The corpus has no split: the benchmark's 100 test questions are the last tenth of its 1,000. The
authors' script calls it "medqsum", and the file keeps that name. Definition: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora import read as raw
from data.corpora.write import Corpus, Item, nine_to_one

FILE = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"


def read(source: Path) -> Iterator[Item]:
    """`source`: the workbook or the folder with it: columns File, CHQ and Summary."""
    items = []
    for place, row in raw.sheet(raw.pick(source, FILE), ("File", "CHQ", "Summary")):
        question, summary = raw.text(place, row, "CHQ"), raw.text(place, row, "Summary")
        items.append((question, (summary,), raw.text(place, row, "File")))
    yield from nine_to_one(items)


CORPORA = (
    Corpus(
        task="task114",
        train="task114_medqsum_text_summurization",
        test="task114_medqsum_text_summurization",
        url="https://github.com/abachaa/MeQSum",
        fetch=FILE,
        split="9:1 in file order",
        definition=(
            "You will be given a long medical question. Your task is to summarize the consumer"
            " health question."
        ),
        read=read,
    ),
)
