"""data.corpora: exams, medicines, diseases, codes and trial criteria become task files.

No text of a corpus stands here: fixtures are made up.
"""

import json
from pathlib import Path

import pytest

from data import task_file
from data.catalog import CATALOG
from data.corpora import medicationqa
from tests.corpora_files import (
    CORPORA,
    LIVE,
    OBO,
    TABULAR,
    TEST_XML,
    TRAIN_XML,
    TRIALS,
    build,
    convert,
    french,
    instances,
    lay,
    made,
    question,
    sheet,
    workbook,
)

# Exams.

GOLD = {
    "task57": "The right answer is C: three.",
    "task58": "正确答案是 C: three.",
    "task59": "正しい答えは C: three. です",
    "task60": "Les bonnes réponses est C: three.",
    "task61": "Правильные ответ: C: three.",
    "task129": "La respuesta correcta es: C: three.",
}
STATED = {
    "task51": "正确答案是 C: three.。",
    "task52": "The right answer is C: three..",
    "task53": "La bonne réponse est C: three..",
    "task54": "正しい答えは C: three. です。",
    "task55": "Правильный ответ: C: three..",
    "task56": "La respuesta correcta es C: three..",
}
LABELS = {
    "English": "Question: Why?\nOptions: ",
    "Chinese": "问题: Why?\n选项: ",
    "Japanese": "質問: Why?\nオプション: ",
    "French": "Question: Why?\nOptions: ",
    "Russian": "Вопрос: Why?\nВарианты: ",
    "Spanish": "Pregunta: Why?\nOpciones: ",
}
LISTED = "A: one\tB: two\tC: three.\t"


@pytest.mark.parametrize("task", GOLD)
def test_mmedbench_answers(tmp_path, task):
    (language,) = CORPORA[task].languages
    rows = [question("C"), question(["B", "C"]), question("A,B")]
    files = {f"Train/{language}.jsonl": rows, f"Test/{language}.jsonl": rows[:1]}
    splits = convert(task, tmp_path, {**files, f"Dev/{language}.jsonl": [question("D")]})
    text = LABELS[language] + LISTED
    assert splits["test"] == [(f"{task}-0", text, (GOLD[task],))]
    assert [x[2][0] for x in splits["train"]] == [
        GOLD[task],
        GOLD[task].replace("C: three.", "B: two, C: three."),
        GOLD[task].replace("C: three.", "A: one, B: two"),
    ]


@pytest.mark.parametrize("task", STATED)
def test_mmedbench_explanations(tmp_path, task, capsys):
    (language,) = CORPORA[task].languages
    rows = [
        question("C", rationale="Because 1.", human_checked=True, human_check_passed=True),
        question("C", rationale="Because 2.", human_checked=True, human_check_passed=False),
        question("C", rationale="Because 3."),
        question("C", rationale=" ", human_check_passed=1),
    ]
    files = {f"{split}/{language}.jsonl": rows for split in ("Train", "Test")}
    written = build(task, lay(tmp_path / "in", files), tmp_path / "out")
    splits = instances(written)
    text = f"{LABELS[language]}{LISTED}\n{STATED[task]}"
    assert splits["test"] == [(f"{task}-0", text, ("Because 1.",))]
    assert [x[1:] for x in splits["train"]] == [(text, (f"Because {i}.",)) for i in (1, 2, 3)]
    assert written.skipped == {"no rationale": 2, "test rationale that no human has passed": 2}


def test_several_right_options_are_stated_in_the_plural(tmp_path):
    files = {"Train/French.jsonl": [question(["A", "C"], rationale="Because.")]}
    ((_, text, _),) = convert("task53", tmp_path, files)["train"]
    assert text.splitlines()[-1] == "Les bonnes réponses sont A: one, C: three.."


def test_medqa_itself_does_as_well(tmp_path):
    files = {"phrases_no_exclude_test.jsonl": [question("C")], "test.jsonl": [question("A")]}
    assert convert("task57", tmp_path, files)["test"][0][2] == (GOLD["task57"],)
    chinese = made(tmp_path / "in", "task58", tmp_path / "zh")
    assert chinese["test"][0][2] == ("正确答案是 A: one",)


def test_igakuqa_sheets_are_split_in_their_order(tmp_path):
    files = {
        "2019/113-A.jsonl": sheet(["113A1"], ["a or c"]),
        "2018/112-B.jsonl": sheet(["112B1"], "c") + sheet(["112B2"]),
        "2018/112-A.jsonl": sheet([f"112A{i}" for i in range(7)]),
        "2018/112-A_translate.jsonl": sheet(["no"]),
        "2018/112-A_metadata.jsonl": [{}],
    }
    files["2018/112-A.jsonl"].insert(3, {**sheet(["n"])[0], "choices": [], "answer": ["4"]})
    written = build("task59", lay(tmp_path / "in", files), tmp_path / "out")
    splits = instances(written)
    order = [*(f"112A{i}" for i in range(7)), "112B1", "112B2", "113A1"]
    assert [x[0] for x in splits["train"] + splits["test"]] == order
    text = "質問: Why?\nオプション: A: v\tB: w\tC: x\tD: y\tE: z\t"
    golds = ("正しい答えは A: v です", "正しい答えは C: x です")
    assert splits["test"] == [("113A1", text, golds)]
    assert splits["train"][7][2] == golds[1:]
    assert splits["train"][0][2] == ("正しい答えは B: w, E: z です",)
    assert written.skipped == {"question without options": 1}


def test_frenchmedmcqa_has_its_own_split(tmp_path):
    files = {"train.json": [french("1", "c")], "test.json": [french("2", "a", "b")], "dev.json": []}
    splits = convert("task60", tmp_path, files)
    text = LABELS["French"] + LISTED
    assert splits == {
        "train": [("1", text, (GOLD["task60"],))],
        "test": [("2", text, ("Les bonnes réponses est A: one, B: two",))],
    }
    assert list(made(tmp_path / "in" / "test.json", "task60", tmp_path / "one")) == ["test"]


# Questions of consumers.


def test_medicationqa_is_of_its_own_corpus(tmp_path):
    rows = [("Question", "Focus (Drug)", "Answer")] + [(f"q{i}", "x", f"a{i}") for i in range(10)]
    splits = convert("task65", tmp_path, {medicationqa.FILE: workbook(*rows)})
    assert [x[1:] for x in splits["train"]] == [(f"q{i}", (f"a{i}",)) for i in range(9)]
    assert splits["test"] == [("task65-0", "q9", ("a9",))]


def test_liveqa_trains_on_pairs_and_tests_on_all_references(tmp_path):
    files = {
        f"TrainingDatasets/{LIVE}Train-1.xml": TRAIN_XML,
        f"TrainingDatasets/{LIVE}Train-2.xml": TRAIN_XML.replace("four", "").replace("Q1", "Q9"),
        f"TestDataset/{LIVE}Test.xml": "<Set/>",  # the other version of the test file counts
        f"TestDataset/{LIVE}Test-Questions-w-summaries.xml": TEST_XML,
    }
    written = build("task62", lay(tmp_path / "in", files), tmp_path / "out")
    splits = instances(written)
    pairs = [("first & line\nsecond", "one"), ("first & line\nsecond", "two")]
    pairs.append(("only this", "three"))
    assert [(text, *answers) for _, text, answers in splits["train"]] == pairs * 2
    assert splits["test"] == [("TQ1", "what?", ("this", "or that"))]
    assert written.skipped["question without answer"] == 1
    assert written.skipped["question without text"] == 1


# Diseases and codes.


@pytest.mark.parametrize("name", ["doid.obo", "doid.obo.gz"])
def test_obo(tmp_path, name):
    written = build("task46", lay(tmp_path / "in", {name: OBO}), tmp_path / "out")
    assert instances(written) == {
        "train": [("X:1", "first", ('Says "this", \\ and\nthat.',))],
        "test": [("X:4", "fourth", ("Four.",))],
    }
    assert written.skipped == {"obsolete term": 1, "term without a definition": 1}


def test_a_term_counts_once(tmp_path):
    term = '[Term]\nid: {}\nname: {}\ndef: "{}" []\n'
    newer = term.format("X:5", "fourth", "Same name.") + term.format("X:1", "renamed", "Same id.")
    written = build("task46", lay(tmp_path / "in", {"b.obo": newer, "a.obo": OBO}), tmp_path / "o")
    splits = instances(written)
    assert [x[0] for x in splits["train"] + splits["test"]] == ["X:1", "X:4"]
    assert written.skipped["term given before"] == 2


def test_icd10_codes_stand_in_the_lists_order(tmp_path):
    splits = convert(
        "task115", tmp_path, {"icd10cm_tabular_2026.xml": TABULAR, "other.xml": "<a/>"}
    )
    assert [(text, *gold) for _, text, gold in splits["train"] + splits["test"]] == [
        ("A00", "Category"),
        ("A00.0", "First & foremost"),
        ("A00.1", "Second"),
        ("A00.11", "Deep"),
    ]
    assert splits["test"][0][0] == "A00.11"


# Trials.


def test_trial_lines_are_numbered_as_the_input_has_them(tmp_path):
    source = lay(tmp_path / "in", {"test.json": TRIALS, "dev.json": TRIALS})
    written = build("task77", source, tmp_path / "out")
    (first, second) = instances(written)["test"]
    assert first[:2] == ("NCT1", "é .\n- no warm milk") and second[:2] == ("NCT2", "age")
    negation, name, drug = {"no": "Negation"}, {"warm milk": "Drug-Name"}, {"milk": "Drug"}
    assert json.loads(first[2][0]) == {
        "Line0": {"Entities": [{"é": "Other"}], "Relations": []},
        "Line1": {
            "Entities": [negation, name, drug],
            "Relations": [[negation, drug, "Negates"], [name, drug, "Modifies"]],
        },
    }
    assert first[2][0].startswith('{\n    "Line0": {') and "é" in first[2][0]
    assert json.loads(second[2][0]) == {"Line0": {"Entities": [], "Relations": []}}
    assert written.skipped == {"blank line": 1} and list(instances(written)) == ["test"]


# Every converter.


def test_names_and_definitions():
    for task, corpus in CORPORA.items():
        names = {corpus.train, corpus.test}
        assert {task_file.task_id(Path(f"{name}.json")) for name in names} == {task}
        known = CATALOG[task].name
        assert not known or f"{task}_{known}" in names, task
        assert all((corpus.url, corpus.fetch, corpus.split, corpus.definition, corpus.languages))


def test_definitions_are_the_authors(realdata):
    authors = json.loads((realdata / "official" / "RewriteDefinitions.json").read_text())
    for task, corpus in CORPORA.items():
        assert corpus.definition == authors[task]["original_def"], task
