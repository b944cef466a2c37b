"""The sets made of the real tasks at hand: what is to test is not to train on, nothing is lost."""

import json
from pathlib import Path

from tests import real_tasks


def pairs(folder: Path) -> dict[str, list[tuple[str, str]]]:
    read = {}
    for path in sorted(folder.glob("*.json")):
        task = json.loads(path.read_text(encoding="utf-8"))
        read[path.name.split("_")[0]] = [(i["input"], str(i["output"])) for i in task["Instances"]]
    return read


def test_real_tasks(realdata, tmp_path):
    real_tasks.make(realdata, tmp_path / "made")
    train, test = pairs(tmp_path / "made" / "train"), pairs(tmp_path / "made" / "test")
    assert {name: len(test[name]) for name in real_tasks.EXPLANATIONS} == dict.fromkeys(
        real_tasks.EXPLANATIONS, 50
    )
    assert len(test["task1"]) == 43 and len(test["task126"]) == 4797  # as in the paper's test sets
    for name in real_tasks.EXPLANATIONS:
        assert not {given.strip() for given, _ in train[name]} & {
            given.strip() for given, _ in test[name]
        }
    for name in real_tasks.NINE_TO_ONE:
        assert len(train[name]) == int(0.9 * (len(train[name]) + len(test[name])))
