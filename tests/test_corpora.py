"""data.corpora: public corpora become task files in the benchmark's gold format, or one clear line.

No text of a corpus stands here: fixtures are made up, and what was published is known by its hash.
"""

import gzip
import hashlib
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from data import task_file
from data.catalog import CATALOG
from data.corpora import CORPORA, __main__, bio_ner, write
from medsjax.errors import UserError

SECRET = "Mrs Example"  # stands for text of a corpus, which no error may quote


def iob(*sentences: str) -> bytes:
    """ "the|O aspirin|B-X" -> the file's lines; a blank line after each sentence."""
    rows = ["".join(f"{t.replace('|', chr(9))}\n" for t in s.split(" ")) for s in sentences]
    return "\n".join(rows).encode()


def workbook(*rows: tuple) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    return book


TRAIN = iob("no|O mention|O", "warm|B-X milk|I-X ,|O honey|B-X ,|O honey|B-X .|O")
TEST = iob("P|B-X .|I-X nov|I-X .|I-X is|O :|O one|O ?|O", "a|B-X b|B-X c|I-X")
QUESTION = {"QUESTION": "Is it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"}
CHOICE = {
    **{"id": "q1", "question": "Which?", "cop": 2},
    **{"opa": "one", "opb": "two", "opc": "three", "opd": "four"},
}
CHOICES = "".join(json.dumps(row) + "\n" for row in (CHOICE, {**CHOICE, "id": "q2", "cop": 4}))
SHEET = [("File", "CHQ", "Summary", None)] + [(f"{i}.txt", f"long {i}", f"{i}?") for i in range(11)]
MEQSUM = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"

SOURCES = {
    **{t: {"train.tsv": TRAIN, "test.tsv": TEST} for t in ("task125", "task126", "task128")},
    "task127": {"train.tsv": TRAIN, "test.tsv": TEST, "devel.tsv": TEST},
    "task123": {"ori_pqal.json": json.dumps({"7": QUESTION, "8": {"QUESTION": "?"}}).encode()},
    "task122": {"dev.json": CHOICES.encode()},
    "task114": {MEQSUM: workbook(*SHEET)},
}


def lay(folder: Path, files: dict) -> Path:
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, openpyxl.Workbook):
            content.save(folder / name)
        else:
            (folder / name).write_bytes(content)
    return folder


def convert(task: str, source: Path, out: Path) -> dict[str, list[task_file.Instance]]:
    """{split: instances} of what the converter of a task writes, which a reader must accept."""
    corpus = CORPORA[task]
    written = write.build(corpus, source, out, [corpus.definition])
    for path, n in written.files.items():
        assert task_file.read(path).n == n
    return {path.parent.name: list(task_file.read(path).instances()) for path in written.files}


def run(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, "argv", ["corpora", *map(str, args)])
    __main__.main()


# What comes out.


@pytest.mark.parametrize("task", ["task125", "task126", "task128"])
def test_iob_gives_the_benchmarks_inputs_and_golds(tmp_path, task):
    splits = convert(task, lay(tmp_path / "in", SOURCES[task]), tmp_path / "out")
    assert list(splits) == ["train", "test"]
    assert [(i.input, *i.outputs) for i in splits["train"]] == [
        ("no mention", "There is no related enetity."),
        ("warm milk, honey, honey.", "warm milk, honey, honey."),
    ]
    assert [(i.input, *i.outputs) for i in splits["test"]] == [
        ("P. nov. is: one?", "P . nov .."),
        ("a b c", "a, b c."),
    ]
    assert [i.id for i in splits["test"]] == [f"{task}-0", f"{task}-1"]


def test_diseases_are_held_out_of_training(tmp_path):
    splits = convert("task127", lay(tmp_path / "in", SOURCES["task127"]), tmp_path / "out")
    assert list(splits) == ["test"] and len(splits["test"]) == 2


def test_one_file_of_a_folder_gives_its_split(tmp_path):
    source = lay(tmp_path / "in", SOURCES["task126"])
    assert list(convert("task126", source / "train.tsv", tmp_path / "out")) == ["train"]


def test_pubmedqa(tmp_path, monkeypatch, capsys):
    source, out = lay(tmp_path / "in", SOURCES["task123"]), tmp_path / "out"
    run(monkeypatch, "build", "123", "--source", source, "--out", out)
    file = task_file.read(out / "test" / "task123_pubmedqa_test_set.json")
    assert list(file.instances()) == [("7", "Context: One. Two.\nQuestion: Is it?", ("maybe",))]
    assert "skipped, no final decision: 1" in capsys.readouterr().out


def test_medmcqa(tmp_path):
    first, second = convert("task122", lay(tmp_path / "in", SOURCES["task122"]), tmp_path / "out")[
        "test"
    ]
    text = "Question: Which?\nOptions:\nA. one\nB. two\nC. three\nD. four"
    assert first == ("q1", text, ("The right answer is B: two",))
    assert second == ("q2", text, ("The right answer is D: four",))


def test_meqsum_is_split_nine_to_one(tmp_path):
    splits = convert("task114", lay(tmp_path / "in", SOURCES["task114"]), tmp_path / "out")
    assert [i.id for i in splits["train"]] == [f"{i}.txt" for i in range(9)]
    assert [tuple(i) for i in splits["test"]] == [
        ("9.txt", "long 9", ("9?",)),
        ("10.txt", "long 10", ("10?",)),
    ]


@pytest.mark.parametrize("typed", [True, False])
def test_mentions_come_back_from_tags(tmp_path, typed):
    rng = np.random.default_rng(3)
    words = ["a", "Ca2+", "é", "病", "-", "(", "'s", "\u2028", "\ufeff", "1.5"]
    sentences, spans = [], []
    for _ in range(300):
        tokens = list(rng.choice(words, rng.integers(1, 20)))
        cuts = np.unique(rng.integers(0, len(tokens) + 1, 6))
        inside = [(int(a), int(b)) for a, b in pairwise(cuts) if rng.random() < 0.6]
        tags = ["O"] * len(tokens)
        for a, b in inside:
            tags[a:b] = ["B"] + ["I"] * (b - a - 1)
        tags = [f"{t}-X" if typed and t != "O" else t for t in tags]
        sentences.append(list(zip(tokens, tags, strict=True)))
        spans.append([" ".join(tokens[a:b]) for a, b in inside])
    text = "\n".join("".join(f"{t}\t{tag}\n" for t, tag in s) for s in sentences)
    (tmp_path / "test.tsv").write_text(text, encoding="utf-8", newline="\n")
    read = list(bio_ner.sentences(tmp_path / "test.tsv"))
    assert read == sentences
    assert [bio_ner.mentions(s) for s in read] == spans
    golds = [bio_ner.gold(s).removesuffix(".") for s in read]
    assert [g.split(", ") if s else g for g, s in zip(golds, spans, strict=True)] == [
        s or bio_ner.NULL.removesuffix(".") for s in spans
    ]


def test_an_inside_tag_without_a_beginning_begins_a_mention():
    tagged = [("a", "I-X"), ("b", "I-X"), ("c", "I-Y"), ("d", "O"), ("e", "I-Y"), ("f", "B-Y")]
    assert bio_ner.mentions(tagged) == ["a b", "c", "e", "f"]
    untyped = [("a", "I"), ("b", "O"), ("c", "I"), ("d", "I")]
    assert bio_ner.mentions(untyped) == ["a", "c d"]


def test_joining_only_takes_spaces_away_before_closing_marks():
    rng = np.random.default_rng(5)
    for _ in range(300):
        tokens = list(rng.choice([*"ab(-%.,;:?!'", "..", ":-"], rng.integers(1, 15)))
        rebuilt = tokens[:1]
        for token in tokens[1:]:
            rebuilt += [token] if token in ".,;:?!" and len(token) == 1 else [" ", token]
        assert bio_ner.join(tokens) == "".join(rebuilt)


# Every converter.


def test_each_converter_names_the_files_of_its_task():
    for task, corpus in CORPORA.items():
        names = {name for name in (corpus.train, corpus.test) if name}
        assert task == corpus.task and task in CATALOG and names
        assert {task_file.task_id(Path(f"{name}.json")) for name in names} == {task}
        known = CATALOG[task].name
        assert not known or f"{task}_{known}" in names, task
        for text in (corpus.url, corpus.fetch, corpus.split):
            assert text and "\n" not in text
        assert corpus.definition.strip()
        assert corpus.languages and corpus.domains and bool(corpus.read)


def test_definitions_are_the_authors(realdata):
    authors = json.loads((realdata / "official" / "RewriteDefinitions.json").read_text())
    for task, corpus in CORPORA.items():
        if task in authors:
            assert corpus.definition == authors[task]["original_def"], task


def test_list_names_every_task(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    run(monkeypatch, "list")
    shown = capsys.readouterr().out
    assert all(task in shown for task in CORPORA) and "CC BY 4.0" in shown


def test_header_has_the_13_keys_and_the_rewrites(tmp_path, monkeypatch, capsys):
    source, out = lay(tmp_path / "in", SOURCES["task126"]), tmp_path / "out"
    rewrites = {"task126": {"original_def": "The original.", "auto_rewrite_def": ["One.", "Two."]}}
    path = tmp_path / "defs.json"
    path.write_text(json.dumps(rewrites))
    run(monkeypatch, "build", "task126", "--source", source, "--out", out, "--definitions", path)
    assert "test.tsv" in capsys.readouterr().out  # the split rule
    name = "task126_test_bc5chem_named_enetity_recognition.json"
    document = json.loads((out / "test" / name).read_text(encoding="utf-8"))
    assert set(document) == {*task_file.HEADER, "Instances"}
    assert document["Definition"] == ["The original.", "One.", "Two."]
    assert document["Source"] == ["BC5CDR"] and document["Input_language"] == ["English"]
    run(monkeypatch, "build", "127", "--source", source, "--out", out, "--definitions", path)
    (made,) = (out / "test").glob("task127*")
    assert task_file.read(made).definitions == (CORPORA["task127"].definition,)


# What is refused: one line, no text of the corpus, nothing written.

BROKEN = [
    ("task126", "test.tsv", f"{SECRET}\tO\nb\tS-X\n".encode(), r"test\.tsv, line 2: .*IOB"),
    ("task126", "test.tsv", SECRET.encode() + b"\tO\tO\tO\n", r"line 1"),
    ("task126", "test.tsv", b"\n\nword\n", r"line 3"),
    ("task126", "test.tsv", b"\xff\tO\n", r"not UTF-8"),
    ("task126", "test.tsv", b"\n\n", r"gives no instance of task126"),
    ("task126", "devel.tsv", TEST, r"train\.tsv or test\.tsv"),
    ("task123", "ori_pqal.json", f'{{"1": "{SECRET}",'.encode(), r"line 1: not JSON"),
    ("task123", "ori_pqal.json", b"[1]", r"object of questions"),
    ("task123", "ori_pqal.json", b'{"1": {"final_decision": "perhaps"}}', r"yes, no or maybe"),
    ("task123", "ori_pqal.json", b'{"1": {"final_decision": "yes"}}', r"CONTEXTS"),
    ("task123", "other.json", b"{}", r"ori_pqal\.json: there is no such file"),
    ("task122", "dev.json", f'{{"id": "{SECRET}"\n'.encode(), r"line 1: not a JSON object"),
    ("task122", "dev.json", b'\n["a"]\n', r"line 2: must be a JSON object"),
    ("task122", "dev.json", b"[" * 200_000, r"line 1"),
    *(
        ("task122", "dev.json", json.dumps({**CHOICE, "cop": cop}).encode(), r"cop must be")
        for cop in (0, 5, None, True, "1", 1.0, [])
    ),
    ("task122", "dev.json", json.dumps({**CHOICE, "opc": None}).encode(), r"line 1: opc"),
    ("task122", "dev.json", (json.dumps(CHOICE) + "\n").encode() * 2, r"ids must be unique"),
    ("task122", "dev.json", json.dumps({**CHOICE, "opa": "\ud800"}).encode(), r"surrogate"),
    ("task114", MEQSUM, b"File,CHQ,Summary", r"not an \.xlsx"),
    ("task114", MEQSUM, workbook(("File", "CHQ")), r"row 1 must name the column 'Summary'"),
    ("task114", MEQSUM, workbook(*SHEET[:2], ("x", SECRET, None)), r"row 3: Summary"),
    ("task114", MEQSUM, workbook(*SHEET[:2], ("x", 12, SECRET)), r"row 3: CHQ"),
    ("task114", MEQSUM, workbook(), r"row 1 must name"),
]


@pytest.mark.parametrize(("task", "name", "content", "rule"), BROKEN)
def test_broken_corpora_are_one_line(tmp_path, task, name, content, rule):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rule) as error:
        convert(task, lay(tmp_path / "in", {name: content}), out)
    assert str(tmp_path) in str(error.value) or task in str(error.value)
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    assert list(out.rglob("*")) == []


def test_a_damaged_workbook_is_refused_wherever_the_damage_is(tmp_path):
    folder = lay(tmp_path / "in", SOURCES["task114"])
    whole = (folder / MEQSUM).read_bytes()
    rng = np.random.default_rng(1)
    for cut in rng.integers(0, len(whole), 12):
        (folder / MEQSUM).write_bytes(whole[:cut])
        with pytest.raises(UserError, match="workbook"):
            list(CORPORA["task114"].read(folder))


def test_wrong_arguments(tmp_path, monkeypatch):
    source, out = lay(tmp_path / "in", SOURCES["task126"]), tmp_path / "out"
    with pytest.raises(UserError, match="task130: no converter makes"):
        run(monkeypatch, "build", "task130", "--source", source, "--out", out)
    with pytest.raises(UserError, match=r"nowhere: there is nothing here; fetch data/BC5CDR"):
        run(monkeypatch, "build", "126", "--source", tmp_path / "nowhere", "--out", out)
    with pytest.raises(UserError, match=r"train\.tsv"):
        run(monkeypatch, "build", "126", "--source", source, "--out", source / "train.tsv")
    assert not out.exists()


# The real corpora.

REAL = {
    **{"task114": "MeQSum", "task122": "medmcqa", "task123": "pubmedqa"},
    **{"task126": "BC5CDR-chem-IOB", "task127": "BC5CDR-disease-IOB"},
}


@pytest.mark.parametrize("task", REAL)
def test_real_corpora_give_the_given_task_files(realdata, tmp_path, task):
    with gzip.open(realdata / "corpora_medsins" / f"{task}.json.gz") as file:
        expected = [(x["input"], (x["output"],)) for x in json.load(file)["Instances"]]
    splits = convert(task, realdata / "corpora" / REAL[task], tmp_path / "out")
    made = [(i.input, i.outputs) for split in splits.values() for i in split]
    assert made == expected
    assert len(splits["test"]) == {"task114": 100}.get(task, len(expected))


PUBLISHED = {  # sha256 of input, newline, gold of the first instance of the benchmark's file
    "task126": "c16c9ea7ffeaa4d5ec0e76b0e2851546c8e4b42122ea2ec0e926cb5871b7fe7b",
    "task127": "82b267bc0fff2149c75a6910f3ea186a6828433e86af21826100b6991ba453c0",
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_bc5cdr_gives_the_published_first_instance(realdata, task):
    first = next(CORPORA[task].read(realdata / "corpora" / REAL[task] / "test.tsv"))
    text = f"{first.input}\n{first.outputs[0]}"
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[task]
