"""data.inventory: counts equal those by hand, and nothing of the examples' text gets out."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data import inventory, reports
from data.build import build, find
from data.catalog import CATALOG, TRAINING
from medsjax.errors import UserError, run_main
from medsjax.tokenizer import Tokenizer

SAMPLE = Path(inventory.__file__).parent / "sample"
HOSTILE = "<script>alert('x')</script>[red]\x1b[31m & \"quoted\""
MARK = "zebrafish"  # in every text of an example and nowhere else


def write_task(folder: Path, number: int, n: int, **header) -> None:
    folder.mkdir(exist_ok=True)
    instances = [
        {"input": f"{MARK} {'word ' * (i % 17)}", "output": [f"{MARK} {i}"] + ["other"] * (i % 3)}
        for i in range(n)
    ]
    document = {"Definition": ["define", "rewrite"], **header, "Instances": instances}
    (folder / f"task{number}_made_up.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(SAMPLE / "base")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inventory") / "source"
    write_task(folder, 12, 700, Input_language="English", Output_language="Spanish")
    write_task(folder, 40, 1, Input_language=["English"])
    write_task(folder, 112, 30, Input_language=["English"], Categories=["Data to Text"])
    write_task(folder, 127, 2)
    write_task(folder, 999, 3, Categories=[HOSTILE], Domains=[HOSTILE], Source=HOSTILE)
    write_task(folder, 1000, 3, Categories=["Fact Verification"])
    return folder


@pytest.fixture(scope="module")
def built(source):
    return build(find(source), "ins", source.parent / "built")


@pytest.fixture(scope="module")
def found(built, tokenizer) -> dict:
    about = {"folder": "here", "tokenizer": {"name": "t", "fingerprint": tokenizer.fingerprint}}
    return about | inventory.take(built, inventory.count_tokens(built, tokenizer))


def by_hand(path: Path, tokenizer) -> np.ndarray:
    """Tokens [n, 2] of input and first output, read without the code under test."""
    instances = json.loads(path.read_text())["Instances"]
    texts = [(instance["input"], instance["output"][0]) for instance in instances]
    return np.array([[len(tokenizer.encode(text)) for text in pair] for pair in texts])


def test_counts_equal_those_by_hand(source, found, tokenizer):
    total = 0
    for path in source.iterdir():
        tokens, row = by_hand(path, tokenizer), found["tasks"][path.name.split("_")[0]]
        assert row["n"] == len(tokens) and row["rewrites"] == 1
        assert [row["input_tokens"], row["output_tokens"]] == tokens.sum(axis=0).tolist()
        for column, name in enumerate(("input_lengths", "output_lengths")):
            ordered = sorted(tokens[:, column].tolist())
            for percent in (50, 90, 99, 100):
                place = -(-percent * len(ordered) // 100) - 1  # the smallest covering that many
                key = "max" if percent == 100 else f"p{percent}"
                assert row[name][key] == ordered[place], (path, name, percent)
        total += tokens.sum()
    assert found["totals"] == {
        **{"tasks": 6, "n": 739, "rewrites": 6, "tokens": total},
        **{
            k: sum(r[k] for r in found["tasks"].values()) for k in ("input_tokens", "output_tokens")
        },
    }


def test_present_missing_and_unknown(found):
    medsins, scored = found["medsins"], found["scored"]
    assert medsins["present"] == ["task12", "task40", "task112"]
    assert scored["present"] == ["task12", "task112", "task127"]
    missing = [entry["task"] for entry in medsins["missing"]]
    assert sorted(missing + medsins["present"]) == sorted(TRAINING) and len(missing) == 119
    assert len(scored["missing"]) == 50
    assert found["unknown"] == ["task999", "task1000"] and found["bench_only"] == ["task127"]
    (seer,) = [entry for entry in scored["missing"] if entry["task"] == "task131"]
    assert seer["access"] == "registration: SEER" and seer["dataset"] == "SEER"


def test_labels_come_from_the_catalog_and_for_other_tasks_from_the_file(found):
    known, unknown = found["tasks"]["task112"], found["tasks"]["task1000"]
    assert known["category"] == CATALOG["task112"].category != known["stated"]["category"]
    assert (known["domain"], known["access"]) == ("Clinical texts", "credentialed: PhysioNet")
    assert (unknown["category"], unknown["domain"]) == ("Fact Verification", "not stated")
    assert unknown["licence"] == unknown["language"] == "not stated" and not unknown["scored"]


def test_distributions_count_every_token_once(found):
    for key, parts in found["distributions"].items():
        for name in ("tasks", "n", "tokens"):
            assert sum(part[name] for part in parts) == found["totals"][name], (key, name)
        assert sum(part["share"] for part in parts) == pytest.approx(100)
        assert [p["tokens"] for p in parts] == sorted((p["tokens"] for p in parts), reverse=True)
    languages = {part["label"]: part["tasks"] for part in found["distributions"]["language"]}
    assert languages == {"English, Spanish": 1, "English": 2, "not stated": 3}
    categories = {part["label"]: part["n"] for part in found["distributions"]["category"]}
    assert categories["Fact Verification"] == 703  # task12 by the catalog, task1000 by its file


def test_nothing_of_the_examples_gets_out_and_names_cannot_break_the_page(found, tmp_path, capsys):
    out = reports.make(tmp_path / "new" / "out")
    reports.write("inventory", found, inventory.render(found), out)
    texts = {path.name: path.read_text() for path in out.iterdir()}
    assert set(texts) == {"inventory.json", "inventory.html"}
    for table in inventory.tables(found):
        Console(width=200, force_terminal=True).print(table)
    texts["terminal"] = capsys.readouterr().out
    for name, text in texts.items():
        assert MARK not in text and "other" not in text.replace("another", ""), name
    assert json.loads(texts["inventory.json"]) == found
    html = texts["inventory.html"]
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not re.search(r"https?:|src=|url\(|@import", html)  # it stands alone
    assert "task112" in html and "Clinical texts" in html and "credentialed: PhysioNet" in html
    assert "[red]�[31m" in texts["terminal"]  # neither markup nor an escape sequence
    assert html == inventory.render(found)


def test_the_papers_shares_are_shown_for_training_data_only(found):
    assert "Paper, %" in inventory.render(found)
    assert "Paper, %" not in inventory.render(found | {"set": "bench"})
    assert sum(inventory.PAPER_DOMAINS.values()) == 100
    assert set(inventory.PAPER_DOMAINS) == {e.domain for e in CATALOG.values()} - {"unknown"}


def test_ranges():
    tasks = ["task1", "task2", "task3", "task11", "task13", "task14"]
    assert inventory.ranges(tasks) == "1-3, 11, 13-14" and inventory.ranges([]) == ""


def test_which_set_it_is(source, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inventory.open_set(built.path, None).fingerprint == built.fingerprint
    assert inventory.open_set(source, "bench").set == "bench"
    with pytest.raises(UserError, match="add --set ins or --set bench"):
        inventory.open_set(source, None)
    with pytest.raises(UserError, match="built with --set ins, used as bench"):
        inventory.open_set(built.path, "bench")
    (tmp_path / "empty").mkdir()
    for set_ in (None, "ins"):
        for place in ("empty", "nowhere"):
            with pytest.raises(UserError, match=place):
                inventory.open_set(tmp_path / place, set_)


def test_the_command(built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inventory", str(built.path), "--out", str(tmp_path / "out")])
    run_main(inventory.main)
    shown = capsys.readouterr().out
    assert "6 tasks, 739 examples" in shown and "MedS-Ins: 3 of 122 present" in shown
    found = json.loads((tmp_path / "out" / "inventory.json").read_text())
    assert found["tokenizer"]["name"] == "data/sample/base" and found["set"] == "ins"
    monkeypatch.setattr(sys, "argv", ["inventory", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        run_main(inventory.main)
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'}: holds no task files")


def test_the_bundled_sample_is_not_taken_for_the_corpora(tokenizer, tmp_path):
    built = build(find(SAMPLE / "train"), "ins", tmp_path / "built")
    tasks = inventory.take(built, np.ones((len(built), 2), np.int32))["tasks"]
    assert {(row["dataset"], row["licence"]) for row in tasks.values()} == {
        ("medsjax sample", "Apache-2.0")
    }


def test_real_task_files(realdata, tokenizer, tmp_path):
    files = [
        next((realdata / "corpora_medsins").glob("task114.*")),
        *find(realdata / "natural_instructions")[:2],
    ]
    built = build(files, "ins", tmp_path / "built")
    found = inventory.take(built, inventory.count_tokens(built, tokenizer))
    assert found["medsins"]["present"] == found["scored"]["present"] == ["task114"]
    assert found["unknown"] == ["task179", "task352"]
    assert found["tasks"]["task114"]["n"] == 1000
    assert found["tasks"]["task179"]["domain"] == "Medicine"
    assert {part["label"]: part["tasks"] for part in found["distributions"]["language"]} == {
        "English": 2,
        "not stated": 1,
    }
