"""data.catalog: complete, in the authors' numbering, and in step with the benchmark's table."""

import json
import re
from pathlib import Path

from data import task_file
from data.catalog import BENCH_ONLY, CATALOG, TRAINING
from eval.tasks import TASKS


def test_122_training_tasks_and_three_that_only_the_benchmark_has():
    ids = {1, 2, 3, *range(11, 30), 31, 33, *range(35, 121), 124, 125, 126, *range(128, 137)}
    assert {int(task.removeprefix("task")) for task in TRAINING} == ids and len(TRAINING) == 122
    assert set(CATALOG) - set(TRAINING) == set(BENCH_ONLY) == {"task122", "task123", "task127"}
    assert list(CATALOG) == sorted(CATALOG, key=lambda task: int(task[4:]))
    assert all(entry.task == task for task, entry in CATALOG.items())


def test_scored_are_the_53_of_the_benchmark():
    assert {task for task, entry in CATALOG.items() if entry.scored} == set(TASKS)


def test_every_cell_is_filled_in_and_of_its_kind():
    for entry in CATALOG.values():
        assert all((entry.category, entry.domain, entry.dataset, entry.licence, entry.access)), (
            entry
        )
        assert not any(cell != cell.strip() for cell in entry[:7]), entry
        assert re.fullmatch(r"open|unknown|(registration|credentialed): \w+", entry.access), entry
        assert re.fullmatch(r"\w*", entry.name), entry
    assert len({entry.domain for entry in CATALOG.values()} - {"unknown"}) == 5
    assert [task for task, entry in CATALOG.items() if not entry.medical] == ["task39"]


GATES = ("PhysioNet", "SEER")


def test_patient_data_is_behind_physionet_and_seer():
    patients = re.compile("MIMIC|MedNLI|SEER")
    for entry in CATALOG.values():
        assert bool(patients.search(entry.dataset)) == (entry.access.partition(": ")[2] in GATES)
    assert CATALOG["task112"].access == "credentialed: PhysioNet"
    assert CATALOG["task131"].access == "registration: SEER"


def test_names_make_task_files():
    assert sum(entry.name != "" for entry in CATALOG.values()) > 90
    for task, entry in CATALOG.items():
        assert task_file.task_id(Path(f"{task}_{entry.name}.json")) == task
    assert CATALOG["task1"].name == "participant_extraction"


def test_the_authors_tasks(realdata):
    definitions = json.loads((realdata / "official" / "RewriteDefinitions.json").read_text())
    assert set(definitions) == set(TRAINING)
