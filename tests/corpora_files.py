"""Made-up corpora on disk, and what their converters write, as a reader of task files has it."""

import gzip
import json
from pathlib import Path

import openpyxl

from data import task_file
from data.corpora import (
    ctnlp,
    do_obo,
    frenchmedmcqa,
    icd10,
    igakuqa,
    liveqa,
    medicationqa,
    mmedbench,
    write,
)

MODULES = (do_obo, igakuqa, frenchmedmcqa, liveqa, medicationqa, ctnlp, icd10, mmedbench)
CORPORA = {corpus.task: corpus for module in MODULES for corpus in module.CORPORA}
SECRET = "Mrs Example"  # stands for text of a corpus, which no error may quote


def lay(folder: Path, files: dict[str, bytes | str | list | openpyxl.Workbook]) -> Path:
    """Write the files; a list is JSON, one row a line where the name ends in .jsonl."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, openpyxl.Workbook):
            content.save(path)
            continue
        if isinstance(content, list) and name.endswith(".jsonl"):
            content = "".join(json.dumps(row) + "\n" for row in content)
        elif isinstance(content, list):
            content = json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def build(task: str, source: Path, out: Path) -> write.Written:
    return write.build(CORPORA[task], source, out, [CORPORA[task].definition])


def instances(written: write.Written) -> dict[str, list[tuple[str, str, tuple[str, ...]]]]:
    """{split: (id, input, outputs)} as a reader of the written files has them."""
    return {
        path.parent.name: [tuple(i) for i in task_file.read(path).instances()]
        for path in written.files
    }


def convert(task: str, tmp_path: Path, files: dict) -> dict:
    return instances(build(task, lay(tmp_path / "in", files), tmp_path / "out"))


def made(source: Path, task: str, tmp_path: Path) -> dict:
    return instances(build(task, source, tmp_path / "out"))


# Corpora.

OPTIONS = {"A": "one", "B": "two", "C": "three."}


def question(right, **more) -> dict:
    return {"question": "Why?", "options": OPTIONS, "answer_idx": right, **more}


def sheet(ids, right=("b", "e")) -> list[dict]:
    choices = ["v", "w", "x", "y", "z"]
    return [
        {"problem_id": id, "problem_text": "Why?", "choices": choices, "answer": list(right)}
        for id in ids
    ]


def french(id: str, *right: str) -> dict:
    options = {letter.lower(): text for letter, text in OPTIONS.items()}
    return {"id": id, "question": "Why?", "answers": options, "correct_answers": list(right)}


def workbook(*rows: tuple) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    return book


TRAIN_XML = """<?xml version="1.0"?><Set>
<NLM-QUESTION questionid="Q1"><SUBJECT>subject</SUBJECT>
  <MESSAGE>
    first &amp; line
    second
  </MESSAGE>
  <SUB-QUESTIONS>
    <SUB-QUESTION><ANSWERS><ANSWER pairid="1"> one </ANSWER><ANSWER/></ANSWERS></SUB-QUESTION>
    <SUB-QUESTION><ANSWERS><ANSWER pairid="2">two</ANSWER></ANSWERS></SUB-QUESTION>
  </SUB-QUESTIONS></NLM-QUESTION>
<NLM-QUESTION><SUBJECT>only this</SUBJECT><MESSAGE/><ANSWER>three</ANSWER></NLM-QUESTION>
<NLM-QUESTION><SUBJECT/><MESSAGE> </MESSAGE><ANSWER>four</ANSWER></NLM-QUESTION>
</Set>"""
TEST_XML = """<Set><NLM-QUESTION qid="TQ1">
<Original-Question><SUBJECT>s</SUBJECT><MESSAGE>what?</MESSAGE></Original-Question>
<NIST-PARAPHRASE>p</NIST-PARAPHRASE>
<ReferenceAnswers><RefAnswer><ANSWER>this</ANSWER><COMMENT>c</COMMENT></RefAnswer>
<ReferenceAnswer><ANSWER>or <B>that</B></ANSWER></ReferenceAnswer></ReferenceAnswers>
</NLM-QUESTION><NLM-QUESTION qid="TQ2"><MESSAGE>unanswered</MESSAGE></NLM-QUESTION></Set>"""
LIVE = "TREC-2017-LiveQA-Medical-"


OBO = r"""format-version: 1.2
def: "not a term" []

[Term]
id: X:1
name: first
alt_id: X:9
def: "Says \"this\", \\ and\nthat." [url:http\://example.org] {comment="n"}
synonym: "def: no" EXACT []

[Term]
id: X:2
name: obsolete second
def: "Old." []
is_obsolete: true

[Term]
id: X:3
name: third

[Typedef]
id: part_of
def: "No term." []

[Term]
id: X:4
name: fourth
def: "Four." []
"""


TABULAR = """<ICD10CM.tabular><version>2026</version><chapter><name>1</name><desc>Chapter</desc>
<section id="A"><desc>Section</desc><diag><name>A00</name><desc>Category</desc>
<includes><note>name</note></includes>
<sevenChrDef><extension char="1">right eye</extension></sevenChrDef>
<diag><name>A00.0</name><desc>First &amp; foremost</desc></diag>
<diag><name>A00.1</name><desc>Second</desc><diag><name>A00.11</name><desc>Deep</desc></diag></diag>
</diag></section></chapter></ICD10CM.tabular>"""


def line(id: str, tokens: list[str], entities=(), relations=()) -> dict:
    spans = [{"type": kind, "start": start, "end": end} for kind, start, end in entities]
    links = [{"type": kind, "head": head, "tail": tail} for kind, head, tail in relations]
    return {"orig_id": id, "tokens": tokens, "entities": spans, "relations": links}


TRIALS = [
    line(
        "7_NCT1",
        ["\n  ", "-", " ", "no", "warm", "milk"],
        [("Drug", 5, 6), ("Drug-Name", 4, 6), ("Negation", 3, 4)],
        [("Modifies", 1, 0), ("Negates", 2, 0)],
    ),
    line("1_NCT2", ["age"]),
    line("0_NCT1", ["\n "]),
    line("2_NCT1", ["é", "."], [("Other", 0, 1)]),
]
