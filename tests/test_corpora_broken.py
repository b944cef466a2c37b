"""data.corpora: what is refused is one line, without text of the corpus, and nothing is written."""

import numpy as np
import pytest

from data.corpora import medicationqa
from medsjax.errors import UserError
from tests.corpora_files import (
    LIVE,
    OBO,
    SECRET,
    TABULAR,
    TEST_XML,
    TRIALS,
    build,
    convert,
    french,
    lay,
    line,
    question,
    sheet,
    workbook,
)

# What is refused: one line, no text of the corpus, nothing written.

TERM = '[Term]\nid: X:1\nname: Mrs Example\ndef: "Text." []\n'
SHEET = [("Question", "Answer"), ("q", SECRET)]
BAD_JSON = f'{{"question": "{SECRET}"'
BROKEN = [
    ("task57", {"Train/Russian.jsonl": [question("A")]}, r"Train/English\.jsonl or phrases"),
    ("task61", {"Train/Russian.jsonl": BAD_JSON}, r"line 1: not a JSON object"),
    ("task61", {"Test/Russian.jsonl": [{"question": SECRET}]}, r"line 1: the options"),
    ("task61", {"Test/Russian.jsonl": [question("A"), question("D")]}, r"line 2: each answer"),
    *(("task61", {"Test/Russian.jsonl": [question(x)]}, "answer") for x in ([], "", "AD", ["AB"])),
    *(("task61", {"Test/Russian.jsonl": [question(x)]}, "be letters") for x in (None, 1, [1])),
    (
        "task61",
        {"Test/Russian.jsonl": [{**question("A"), "options": {"A": 1}}]},
        "options must be strings",
    ),
    ("task52", {"Test/English.jsonl": [question("A", human_check_passed="no")]}, "human_check"),
    ("task52", {"Test/English.jsonl": [question("A", rationale=SECRET)]}, r"gives no instance"),
    ("task52", {"Train/English.jsonl": [question("A", rationale=[SECRET])]}, r"rationale is"),
    ("task59", {"112-A_translate.jsonl": sheet(["1"])}, r"no exam sheet"),
    ("task59", {"112-A.jsonl": sheet(["1"], "f")}, r"line 1: each answer"),
    ("task59", {"112-A.jsonl": sheet(["1"], ["a or f"])}, r"line 1: each answer"),
    ("task59", {"112-A.jsonl": sheet(["1"], [3])}, r"answer must be a list of letters"),
    ("task59", {"112-A.jsonl": sheet(["1"], [])}, r"each answer"),
    ("task59", {"112-A.jsonl": sheet(["1", "1", "2"])}, r"ids must be unique"),
    ("task59", {"112-A.jsonl": [{**sheet(["1"])[0], "choices": SECRET}]}, r"choices must be"),
    ("task60", {"dev.json": [french("1", "a")]}, r"train\.json or test\.json"),
    ("task60", {"test.json": "{}"}, r"list of questions"),
    ("task60", {"test.json": [SECRET]}, r"question 0: must be an object"),
    ("task60", {"test.json": [french("1", "a"), french("2", "f")]}, r"question 1: each answer"),
    ("task60", {"test.json": [{**french("1"), "correct_answers": 1}]}, r"must be letters"),
    ("task60", {"test.json": [{**french("1", "a"), "answers": [SECRET]}]}, r"options must"),
    ("task65", {medicationqa.FILE: "Question,Answer"}, r"not an \.xlsx"),
    ("task65", {medicationqa.FILE: workbook(SHEET[0], (SECRET, None))}, r"row 2: Answer"),
    ("task65", {medicationqa.FILE: workbook(("Question",))}, r"name the column 'Answer'"),
    ("task62", {"other.xml": TEST_XML}, r"must be, or hold, TREC-2017"),
    ("task62", {f"{LIVE}Test.xml": TEST_XML[:-20]}, r"Test\.xml, line 6: not XML"),
    ("task62", {f"{LIVE}Test.xml": b"<?xml version='1.0' encoding='no'?><a/>"}, r"Test\.xml"),
    (
        "task62",
        {f"{LIVE}Test.xml": f'<!DOCTYPE a [<!ENTITY e "{SECRET}">]><a>&e;</a>'},
        r"DTD or entities",
    ),
    ("task46", {"a.obo": "[Term]\nname: Mrs Example\n"}, r"a\.obo, last term: .*id and name"),
    ("task46", {"a.obo": TERM + "def: no\n"}, r"line 5: the term has def twice"),
    ("task46", {"a.obo": TERM.replace('"Text."', SECRET)}, r"line 4: def must be"),
    ("task46", {"a.obo": TERM.replace("Text.", " ")}, r"line 4: def must be"),
    ("task46", {"a.obo": b"[Term]\nid: \xff\n"}, r"not UTF-8"),
    ("task46", {"a.obo": "[Typedef]\n"}, r"gives no instance"),
    ("task46", {"a.owl": TERM}, r"\.obo"),
    ("task115", {"a.xml": TABULAR}, r"one tabular list .* has 0"),
    ("task115", {"tabular.xml": TABULAR[:400]}, r"tabular\.xml, line \d: not XML"),
    ("task115", {"tabular.xml": TABULAR.replace("<name>A00.1</name>", "")}, r"no name before"),
    ("task115", {"tabular.xml": TABULAR.replace("<desc>Second</desc>", "")}, r"A00\.1.: its diag"),
    ("task115", {"tabular.xml": TABULAR.replace("A00.1<", "A00.0<")}, r"ids must be unique"),
    ("task115", {"tabular.xml": "<a/>"}, r"gives no instance"),
    ("task77", {"dev.json": TRIALS}, r"train\.json or test\.json"),
    ("task77", {"test.json": "{}"}, r"list of lines"),
    ("task77", {"test.json": [1]}, r"entry 0: must be an object"),
    ("task77", {"test.json": [line("NCT1", [SECRET])]}, r"entry 0: needs orig_id"),
    ("task77", {"test.json": [line("1_N", [SECRET], [("T", 0, 2)])]}, r"entry 0: entities need"),
    ("task77", {"test.json": [line("1_N", [SECRET], [], [("T", 0, -1)])]}, r"head and tail"),
    ("task77", {"test.json": [{**TRIALS[1], "entities": 3}]}, r"entities need"),
]


@pytest.mark.parametrize(("task", "files", "rule"), BROKEN)
def test_broken_corpora_are_one_line(tmp_path, task, files, rule):
    with pytest.raises(UserError, match=rule) as error:
        convert(task, tmp_path, files)
    assert str(tmp_path) in str(error.value) or task in str(error.value)
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path):
    path = lay(tmp_path / "in", {"a.obo.gz": OBO * 20}) / "a.obo.gz"
    whole = path.read_bytes()
    for cut in np.random.default_rng(2).integers(0, len(whole), 8):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"gzip|gives no instance"):
            build("task46", path, tmp_path / "out")
