"""MMedBench, exam questions in six languages: answering them (tasks 57, 58, 61, 129) and
explaining the answer (tasks 51-56). IgakuQA (task59) and FrenchMedMCQA (task60) have modules of
their own and are written by the same rules. For tasks 57 and 58 MedQA's own files do as well.

Train/<Language>.jsonl trains and Test/<Language>.jsonl tests; a development file goes nowhere.
An explanation is tested only where a human has passed the machine-written rationale, as the
benchmark's 200 Chinese to 173 Russian items show. Options keep a tab after each, the last too; a
rationale's answer line gets a full stop even after one. "Les bonnes réponses est" and "Правильные
ответ" (sic) are the published gold, one answer or several.

The explanations' training files are not known by name: theirs is the test file's without
"_test_only". Definitions: MedS-Ins, CC BY-SA.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data.corpora import read as raw
from data.corpora.split_files import split_files
from data.corpora.write import Corpus, Item, Skip, Split
from medsjax.errors import UserError

ANSWER = (
    "Given a question and a list of options, select the correct answer from the options directly."
)
EXPLAIN = "Given a question and its answer, generate an explanation statement."


class Words(NamedTuple):
    question: str
    options: str
    gold: str  # of the answering tasks; {} is "B: the option"
    stated: str  # in the input of the explaining tasks
    several: str = ""  # the same for more than one right option, where it differs


WORDS = {
    "English": Words("Question", "Options", "The right answer is {}", "The right answer is {}."),
    "Chinese": Words("问题", "选项", "正确答案是 {}", "正确答案是 {}。"),
    "Japanese": Words("質問", "オプション", "正しい答えは {} です", "正しい答えは {} です。"),
    "French": Words(
        "Question",
        "Options",
        "Les bonnes réponses est {}",
        "La bonne réponse est {}.",
        "Les bonnes réponses sont {}.",
    ),
    "Russian": Words("Вопрос", "Варианты", "Правильные ответ: {}", "Правильный ответ: {}."),
    "Spanish": Words(
        "Pregunta", "Opciones", "La respuesta correcta es: {}", "La respuesta correcta es {}."
    ),
}

# MedQA's own files have the same keys: of questions/US/4_options and questions/Mainland/4_options
MEDQA = {"English": "phrases_no_exclude_{}.jsonl", "Chinese": "{}.jsonl"}


class Choice(NamedTuple):
    question: str
    options: dict[str, str]  # by letter
    right: list[str]  # letters, at least one


def choice(place: str, question: str, options: Any, right: Any) -> Choice:
    """Refuses options that are no strings by capital letter and answers that are none of them."""
    if not isinstance(options, dict) or not all(isinstance(x, str) for x in options.values()):
        raise UserError(f"{place}: the options must be strings by letter; fetch the file again")
    if not isinstance(right, str | list) or not all(isinstance(x, str) for x in right):
        raise UserError(f"{place}: the answer must be letters; fetch the file again")
    letters = right  # "B", "B,C" or ["B", "C"]
    if isinstance(right, str):
        letters = [letter for letter in right if letter not in ", "]
    if not letters or not set(letters) <= set(options):
        raise UserError(f"{place}: each answer must be the letter of an option; correct it")
    return Choice(question, options, letters)


def asked(language: str, item: Choice) -> str:
    words = WORDS[language]
    listed = "".join(f"{letter}: {text}\t" for letter, text in item.options.items())
    return f"{words.question}: {item.question}\n{words.options}: {listed}"


def named(item: Choice) -> str:
    return ", ".join(f"{letter}: {item.options[letter]}" for letter in item.right)


def gold(language: str, item: Choice) -> str:
    return WORDS[language].gold.format(named(item))


def answering(split: Split, language: str, item: Choice, id: str = "") -> Item:
    return Item(split, asked(language, item), (gold(language, item),), id)


def explaining(split: Split, language: str, item: Choice, rationale: str) -> Item:
    words = WORDS[language]
    line = words.several if words.several and len(item.right) > 1 else words.stated
    return Item(split, f"{asked(language, item)}\n{line.format(named(item))}", (rationale,))


def is_here(source: Path) -> bool:
    """Whether `source` is an MMedBench folder."""
    return (source / "Train").is_dir() or (source / "Test").is_dir()


def answers(source: Path, language: str) -> Iterator[Item]:
    """`source`: the folder MMedBench with Train, Test or both; or MedQA's folder 4_options."""
    for split, _, _, item in _rows(source, language):
        yield answering(split, language, item)


def rationales(source: Path, language: str) -> Iterator[Item | Skip]:
    """`source`: the folder MMedBench, with Train, Test or both."""
    for split, place, row, item in _rows(source, language):
        passed = row.get("human_check_passed", False)
        if not isinstance(passed, int):  # true, false, 1 or 0
            raise UserError(f"{place}: human_check_passed must be true or false; correct it")
        if split == "test" and not passed:
            yield Skip("test rationale that no human has passed")
        elif not str(row.get("rationale") or "").strip():
            yield Skip("no rationale")
        else:
            yield explaining(split, language, item, raw.text(place, row, "rationale"))


def _rows(source: Path, language: str) -> Iterator[tuple[Split, str, dict[str, Any], Choice]]:
    names = {s: [f"{s.title()}/{language}.jsonl"] for s in ("train", "test")}
    if language in MEDQA:
        for split in names:
            names[split].append(MEDQA[language].format(split))
    for split, path in split_files(source, **names).items():
        for place, row in raw.json_lines(path):
            question = raw.text(place, row, "question")
            right = row.get("answer_idx")
            yield split, place, row, choice(place, question, row.get("options"), right)


def _corpus(task: str, train: str, test: str, language: str, explain: bool = False) -> Corpus:
    return Corpus(
        task=task,
        train=f"{task}_{train}",
        test=f"{task}_{test}",
        url="https://huggingface.co/datasets/Henrychur/MMedBench",
        fetch=(
            f"MMedBench.zip unpacked: Train/{language}.jsonl and Test/{language}.jsonl"
            + (", or MedQA's folder 4_options" if language in MEDQA and not explain else "")
        ),
        split="official: Train, Test" + (" where a human passed the rationale" if explain else ""),
        definition=EXPLAIN if explain else ANSWER,
        read=partial(rationales if explain else answers, language=language),
        languages=(language,),
    )


def _answer(task: str, name: str, language: str) -> Corpus:
    return _corpus(task, name, name, language)


def _explain(task: str, language: str) -> Corpus:
    name = f"mmedbench_explanation_{language.lower()}"
    return _corpus(task, name, f"{name}_test_only", language, explain=True)


CORPORA = (
    _explain("task51", "Chinese"),
    _explain("task52", "English"),
    _explain("task53", "French"),
    _explain("task54", "Japanese"),
    _explain("task55", "Russian"),
    _explain("task56", "Spanish"),
    _answer("task57", "medqa_question_answering_en", "English"),
    _answer("task58", "medqa_question_answering_zh", "Chinese"),
    _answer("task61", "rumedbench_question_answering", "Russian"),
    _answer("task129", "headqa_question_answering", "Spanish"),
)
