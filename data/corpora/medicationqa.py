"""MedicationQA, consumers' questions about medicines and answers from trusted sites: task65.

The authors' script for this task is a copy of LiveQA's and would write LiveQA's questions into it;
here they are MedicationQA's own 690. The corpus has no split. A dozen answers say that there is
none ("Unanswerable", "n/a"); they stay, as in the published number. Definition: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora import read as raw
from data.corpora.write import Corpus, Item, nine_to_one

FILE = "MedInfo2019-QA-Medications.xlsx"


def read(source: Path) -> Iterator[Item]:
    """`source`: the workbook or the folder with it: columns Question and Answer."""
    items = []
    for place, row in raw.sheet(raw.pick(source, FILE), ("Question", "Answer")):
        items.append((raw.text(place, row, "Question"), (raw.text(place, row, "Answer"),), ""))
    yield from nine_to_one(items)


CORPORA = (
    Corpus(
        task="task65",
        train="task65_medicationqa_question_answering",
        test="task65_medicationqa_question_answering",
        url="https://github.com/abachaa/Medication_QA_MedInfo2019",
        fetch=FILE,
        split="9:1 in file order",
        definition=(
            "Assuming you are a doctor. Next I will ask some questions about medications. The"
            " question may ask about drug interaction, usage, side effects, information, dose, or"
            " medication actions. Since this is about serious medication, you show be cautious and"
            " careful. "
        ),
        read=read,
    ),
)
