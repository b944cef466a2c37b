"""data.corpora on the real corpora, against files that others made from them."""

import gzip
import json
from pathlib import Path

import pytest

from data.corpora import icd10, mmedbench
from tests.corpora_files import build, instances, lay, made

# The real corpora.


def given(realdata: Path, task: str) -> list[tuple[str, tuple[str]]]:
    with gzip.open(realdata / "corpora_medsins" / f"{task}.json.gz") as file:
        return [(x["input"], (x["output"],)) for x in json.load(file)["Instances"]]


@pytest.mark.parametrize(
    ("task", "folder", "sizes"),
    [("task60", "frenchmedmcqa", {"test": 622}), ("task65", "MedicationQA", [621, 69])],
)
def test_real_corpora_give_the_given_task_files(realdata, tmp_path, task, folder, sizes):
    splits = made(realdata / "corpora" / folder, task, tmp_path)
    assert [x[1:] for split in splits.values() for x in split] == given(realdata, task)
    assert {k: len(v) for k, v in splits.items()} == dict(
        sizes if isinstance(sizes, dict) else zip(("train", "test"), sizes, strict=True)
    )


def test_real_icd10_gives_the_given_task_file(realdata, tmp_path):
    package = pytest.importorskip("simple_icd_10_cm", reason="pip install simple-icd-10-cm")
    (path,) = (Path(package.__file__).parent / "data").glob("*.xml")
    assert [(a, (b,)) for a, b in icd10.codes(path)] == given(realdata, "task115")


def test_real_disease_ontology_gives_the_given_terms_without_the_withdrawn(realdata, tmp_path):
    written = build("task46", realdata / "corpora" / "disease-ontology", tmp_path)
    ours = {x[1]: x[2] for split in instances(written).values() for x in split}
    theirs = dict(given(realdata, "task46"))
    assert ours.items() <= theirs.items()
    assert len(theirs) == 5914 and len(ours) == 5286  # 531 obsolete, 97 renamed since


def test_real_liveqa(realdata, tmp_path):
    splits = made(realdata / "corpora" / "LiveQA", "task62", tmp_path)
    assert list(splits) == ["test"] and len(splits["test"]) == 104
    assert sum(len(answers) for _, _, answers in splits["test"]) == 167
    texts = [text for _, asked, answers in splits["test"] for text in (asked, *answers)]
    assert not [text for text in texts if "\t" in text or text != text.strip()]


def test_real_trials(realdata, tmp_path):
    written = build("task77", realdata / "corpora" / "clinical-trials-gov", tmp_path)
    (trials,) = instances(written).values()
    lines = [(text.split("\n"), json.loads(gold[0])) for _, text, gold in trials]
    assert all(list(gold) == [f"Line{i}" for i in range(len(text))] for text, gold in lines)
    for text, gold in lines:
        for row, said in zip(text, gold.values(), strict=True):
            assert all(entity in row for found in said["Entities"] for entity in found)
    assert len(trials) == 636 and sum(len(text) for text, _ in lines) == 1095


def test_real_recovered_explanations_are_rebuilt(realdata, tmp_path):
    """The published inputs, taken apart into MMedBench's rows, come back byte for byte."""
    for number, language in zip(range(51, 57), LABELS_IN_ORDER, strict=True):
        name = f"task{number}_mmedbench_explanation.recovered.json"
        published = json.loads((realdata / "official" / name).read_text())["Instances"]
        rows = [take_apart(x["input"], x["output"], language) for x in published]
        files = {f"Test/{language}.jsonl": rows}
        source = lay(tmp_path / language, files)
        splits = made(source, f"task{number}", tmp_path / f"out {language}")
        assert [x[1:] for x in splits["test"]] == [(x["input"], (x["output"],)) for x in published]


LABELS_IN_ORDER = ("Chinese", "English", "French", "Japanese", "Russian", "Spanish")


def take_apart(text: str, rationale: str, language: str) -> dict:
    words = mmedbench.WORDS[language]
    text, listed = text.removeprefix(f"{words.question}: ").rsplit(f"\n{words.options}: ", 1)
    listed, answer = listed.rsplit("\t\n", 1)
    options = dict(option.split(": ", 1) for option in listed.split("\t"))
    right = [a for a in options if f"{a}: {options[a]}" in answer]
    row = {"question": text, "options": options, "answer_idx": right}
    return {**row, "rationale": rationale, "human_check_passed": True}


def test_real_igakuqa_is_what_the_benchmark_printed(realdata, tmp_path):
    splits = made(realdata / "corpora" / "igakuqa", "task59", tmp_path)
    ours = {text: gold[0] for split in splits.values() for _, text, gold in split}
    name = "task54_mmedbench_explanation.recovered.json"
    published = json.loads((realdata / "official" / name).read_text())["Instances"]
    printed = dict(x["input"].rsplit("\n", 1) for x in published)
    both = ours.keys() & printed.keys()
    assert len(both) == 27  # of the 122 known; the others are of earlier years
    assert all(f"{ours[text]}。" == printed[text] for text in both)
    assert {k: len(v) for k, v in splits.items()} == {"train": 357, "test": 40}
