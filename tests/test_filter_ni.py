"""data.filter_ni: the paper's domains choose; counterparts are known or candidates, no guess."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from data import filter_ni
from data.catalog import CATALOG
from data.filter_ni import CANDIDATES, KNOWN, choose, counterpart
from medsjax.errors import UserError, run_main


def write(folder: Path, name: str, domains=("Medicine",), instances=2) -> Path:
    listed = [
        {"id": f"{name}-{i}", "input": f"text {i}", "output": ["a"]} for i in range(instances)
    ]
    header = {"Definition": ["Do."], "Categories": ["Translation"], "Domains": list(domains)}
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({**header, "Instances": listed, "URL": [""]}))
    return folder / name


def run(*argv) -> None:
    before, sys.argv = sys.argv, ["filter_ni", *map(str, argv)]
    try:
        run_main(filter_ni.main)
    finally:
        sys.argv = before


@pytest.mark.parametrize(
    ("domains", "chosen"),
    [
        (["Medicine"], "yes"),
        (["Biology -> Clinical Knowledge", "Healthcare"], "yes"),
        (["Science -> medicine"], "yes"),
        (["Biology -> Clinical Knowledge"], "no"),
        (["Veterinary Medicine"], "no"),
        ([], "no"),
    ],
)
def test_a_domain_at_any_level_chooses_and_a_part_of_a_word_does_not(tmp_path, domains, chosen):
    choice = choose(write(tmp_path, "task900_made_up.json", domains), filter_ni.DOMAINS)
    assert choice.chosen == chosen and choice.instances == 2
    assert choice.medsins == choice.relation == ""


def test_a_known_counterpart_is_chosen_without_the_domain_and_a_candidate_is_not(tmp_path):
    known = write(tmp_path, "task1481_gene_extraction_bc2gm_dataset.json", ["Biology"])
    maybe = write(tmp_path, "task1480_gene_extraction_jnlpba_dataset.json", ["Biology"])
    assert choose(known, filter_ni.DOMAINS)[1:5] == (
        *("yes", "task31 of MedS-Ins, though of another domain"),
        *("task31", "known"),
    )
    assert choose(known, filter_ni.DOMAINS, by_domain_only=True).chosen == "no"
    assert choose(maybe, filter_ni.DOMAINS)[1:5] == (
        *("no", "domain Biology"),
        *("task31 or task33", "candidate"),
    )


def test_a_number_with_another_name_has_no_counterpart():
    assert counterpart("task179_participant_extraction.json") == ("task1", "known")
    assert counterpart("task179_something_else.json") == ("", "")
    assert counterpart("task1480_something_else.json") == ("", "")
    assert counterpart("task1_participant_extraction.json") == ("", "")


def test_each_task_of_the_catalog_has_one_known_counterpart_at_most():
    assert len(set(KNOWN.values())) == len(KNOWN) and set(KNOWN.values()) <= CATALOG.keys()
    assert not KNOWN.keys() & CANDIDATES.keys()


def test_files_are_copied_as_they_are_beside_an_account_of_all(tmp_path):
    tasks = tmp_path / "tasks"
    chosen = write(tasks, "task20_made_up.json", ["Healthcare"])
    write(tasks, "task3_made_up.json", ["Fiction"])
    (tasks / "task4_broken.json").write_text("{")
    (tasks / "README.md").write_text("not a task")
    run(tasks, "--out", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {chosen.name, "choice.csv"}
    copied = tmp_path / "out" / chosen.name
    assert copied.read_bytes() == chosen.read_bytes() and not copied.is_symlink()
    with open(tmp_path / "out" / "choice.csv", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["task3_made_up.json", "task4_broken.json", "task20_made_up.json"]
    assert [row["chosen"] for row in rows.values()] == ["no", "no", "yes"]
    assert rows["task3_made_up.json"]["reason"] == "domain Fiction"
    assert rows["task4_broken.json"]["reason"].startswith("unreadable: not JSON")


def test_other_domains_can_be_asked_for(tmp_path):
    write(tmp_path / "tasks", "task20_made_up.json", ["Biology -> Bioinformatics"])
    run(tmp_path / "tasks", "--out", tmp_path / "out", "--domains", "Bioinformatics")
    assert (tmp_path / "out" / "task20_made_up.json").exists()


def test_mistakes_are_one_line_and_leave_nothing_behind(tmp_path, capsys):
    write(tmp_path / "tasks", "task20_made_up.json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "none").mkdir()
    for folder, out, rule in (
        ("tasks", "full", "not empty"),
        ("none", "out", "holds no task"),
        ("nowhere", "out", "no such folder"),
        ("tasks", "full/mine.txt/out", "File exists"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(tmp_path / folder, "--out", tmp_path / out)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and rule in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "none", "tasks"]
    with pytest.raises(UserError, match="Definition"):
        (tmp_path / "task5_x.json").write_text('{"Instances": [{"input": "a", "output": "b"}]}')
        choose(tmp_path / "task5_x.json", filter_ni.DOMAINS)


def test_real_files_and_real_definitions(realdata, tmp_path):
    folder = realdata / "natural_instructions"
    found = {p.name: choose(p, filter_ni.DOMAINS) for p in filter_ni.find(folder)}
    numbers = {int(re.search(r"\d+", name)[0]) for name, c in found.items() if c.chosen == "yes"}
    assert numbers == {179, 1447, 1448, 1481}
    assert found["task179_participant_extraction.json"].scored == "yes"

    official = json.loads((realdata / "official" / "RewriteDefinitions.json").read_text())
    listed = json.loads((folder / "flan_niv2_definitions_and_examples.json").read_text())
    shared: dict[str, set[str]] = {}
    for task, entries in listed.items():
        for entry in entries:
            shared.setdefault(entry["ni_task"], set()).add(task)
            theirs, ours = entry["definition"], official[task]["original_def"]
            assert theirs.split() == ours.split()
    for name, tasks in shared.items():
        medsins, relation = counterpart(f"{name}.json")
        assert set(medsins.split(" or ")) == tasks if relation == "candidate" else medsins in tasks
    assert {int(re.search(r"\d+", name)[0]) for name in shared} == KNOWN.keys() | CANDIDATES.keys()
