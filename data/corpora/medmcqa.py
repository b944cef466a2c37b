"""MedMCQA, questions of Indian medical entrance exams: task122.

The benchmark tests on dev.json, whose 4,183 questions it calls the official test split: test.json
has no answers. The correct option `cop` counts from 1 in the authors' files, and from 0 in the
copy on the Hugging Face hub, which would silently shift every answer: a 0 is refused. A published
quotation of the first instance has a full stop after its last option; none is added here.

No definition of this benchmark-only task is known: here it is that of task57 (MedS-Ins,
CC BY-SA), the same kind of exam.
"""

from collections.abc import Iterator
from pathlib import Path

from data.corpora import read as raw
from data.corpora.write import Corpus, Item
from medsjax.errors import UserError

LETTERS = "ABCD"


def read(source: Path) -> Iterator[Item]:
    """`source`: dev.json, one question a line, or the folder with it."""
    for place, row in raw.json_lines(raw.pick(source, "dev.json")):
        options = [raw.text(place, row, f"op{letter.lower()}") for letter in LETTERS]
        right = row.get("cop")
        if type(right) is not int or not 1 <= right <= 4:
            raise UserError(
                f"{place}: cop must be 1, 2, 3 or 4; take the file of medmcqa.github.io, as the"
                " Hugging Face copy counts from 0"
            )
        listed = "\n".join(f"{a}. {text}" for a, text in zip(LETTERS, options, strict=True))
        asked = raw.text(place, row, "question")
        answer = f"The right answer is {LETTERS[right - 1]}: {options[right - 1]}"
        id = raw.text(place, row, "id")
        yield Item("test", f"Question: {asked}\nOptions:\n{listed}", (answer,), id)


CORPORA = (
    Corpus(
        task="task122",
        train="",
        test="task122_medmcqa_test_set",
        url="https://medmcqa.github.io",
        fetch="dev.json of the data archive",
        split="official: all of dev.json tests",
        definition=(
            "Given a question and a list of options, select the correct answer from the options"
            " directly."
        ),
        read=read,
    ),
)
