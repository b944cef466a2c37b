"""LiveQA 2017's medical task, consumers' questions to a national library of medicine: task62.

The two training files train, one instance for each answer; in the test file, read in either of
its versions, a question's reference answers are its several golds. The authors' script reads a
copy of the training files alone and takes the message; where a message is empty, which leaves
nothing to answer, the subject stands in for it here. Line breaks stay, the markup's indentation
goes. Definition: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from data.corpora import xml_events
from data.corpora.write import Corpus, Item, Skip, Split
from medsjax.errors import UserError

_TRAIN = ("TREC-2017-LiveQA-Medical-Train-1.xml", "TREC-2017-LiveQA-Medical-Train-2.xml")
_TEST = (
    "TREC-2017-LiveQA-Medical-Test-Questions-w-summaries.xml",
    "TREC-2017-LiveQA-Medical-Test.xml",
)


def read(source: Path) -> Iterator[Item | Skip]:
    """`source`: the repository's folder, or one of its files."""
    found = {p.name: p for p in ([source] if source.is_file() else sorted(source.rglob("*.xml")))}
    train = [found[name] for name in _TRAIN if name in found]
    test = [found[name] for name in _TEST if name in found][:1]
    if not train and not test:
        raise UserError(f"{source}: must be, or hold, {' or '.join((*_TRAIN, *_TEST))}")
    for path in train:
        for question, answers, _ in _questions(path):
            yield from (_item("train", question, (answer,), "") for answer in answers)
    for path in test:
        for question, answers, id in _questions(path):
            yield _item("test", question, answers, id)


def _item(split: Split, question: str, answers: tuple[str, ...], id: str) -> Item | Skip:
    if not question:
        return Skip("question without text")
    return Item(split, question, answers, id) if answers else Skip("question without answer")


def _questions(path: Path) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(question, answers that are not blank, its id or "") of each."""
    for event, element in xml_events.events(path):
        if event == "end" and element.tag == "NLM-QUESTION":
            answers = [xml_events.text(answer) for answer in element.iter("ANSWER")]
            id = element.get("qid", "")
            yield _asked(element), tuple(answer for answer in answers if answer), id
            element.clear()


def _asked(question: Element) -> str:
    message, subject = (next(question.iter(tag), None) for tag in ("MESSAGE", "SUBJECT"))
    return xml_events.text(message) or xml_events.text(subject)


CORPORA = (
    Corpus(
        task="task62",
        train="task62_liveqa_medical_filtered_conversation",
        test="task62_liveqa_medical_filtered_conversation",
        url="https://github.com/abachaa/LiveQA_MedicalTask_TREC2017",
        fetch="TrainingDatasets and TestDataset of the repository",
        split="official: the two training files, the test file",
        definition=(
            "Given your background as a doctor, please provide your insight in addressing the"
            " medical questions based on the patient's account. "
        ),
        read=read,
        domains=("Medicine", "Daily Conversation"),
    ),
)
