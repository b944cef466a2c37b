"""What the official scripts print of whole files, against what they printed (tests/golden)."""

import json
import math
import re
from pathlib import Path

import pytest

from eval import official_files, submission
from eval.submission import Columns, Submission
from medsjax.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
SCORERS = {scorer.name: scorer for scorer in official_files.SCORERS}
NAMES = {"accuracy": "acc", "f1_score": "f1"}
NONE = Columns([], [], [])


def wholes(folder):
    found = json.loads((GOLDEN / folder / "official.json").read_text())
    return [(GOLDEN / folder / f"{k}.csv", v) for k, v in found.items() if "category" in v]


FILES = [
    *(
        (GOLDEN / name / "preds.csv", json.loads((GOLDEN / name / "official.json").read_text()))
        for name in SCORERS
    ),
    *wholes("_dtype_traps"),
    *wholes("_variants"),
]


def read(file):
    """Also a file without rows, which the scripts score though `submission.read` refuses it."""
    if len(file.read_text("utf-8").splitlines()) > 1:
        return submission.read(file)
    with pytest.raises(UserError, match="no rows"):
        submission.read(file)
    return Submission(file, [], [], [], [], [], NONE, NONE)


@pytest.mark.parametrize(("file", "wanted"), FILES, ids=lambda x: str(getattr(x, "stem", "")))
def test_files(file, wanted):
    got = official_files.printed(SCORERS[wanted["category"]], read(file))
    assert got.death == (wanted.get("crash") or "")
    if got.death:
        assert not got.results and not got.average
        return
    results = wanted.get("results") or wanted["official"]
    assert list(got.results) == list(results)
    for name, values in results.items():
        for metric, value in values.items():
            assert math.isclose(
                got.results[name][NAMES.get(metric, metric)], value, abs_tol=1e-9
            ), (name, metric)
    average = wanted.get("official_avg") or {}
    if average or "official_avg" in wanted:
        assert got.average.keys() == {NAMES.get(metric, metric) for metric in average}
    for metric, value in average.items():
        assert math.isclose(got.average[NAMES.get(metric, metric)], value, abs_tol=1e-9)
    printed = wanted.get("official_files") or {}
    if wanted["category"] != "NatureLanguageInference" and printed:  # it prints two, one a task
        numbers = re.findall(r"-?\d+\.\d\d", printed["csv"])
        assert re.findall(r"-?\d+\.\d\d", got.line) == numbers


def test_every_row_of_the_file_is_a_diagnosis(tmp_path):
    rows = "task130,i,croup,croup\ntask52,i,said,other\n"
    file = tmp_path / "mixed.csv"
    file.write_text(f"task_id,input,GT,output\n{rows}")
    found = submission.read(file)
    assert [scorer.name for scorer in official_files.present(found)] == ["Diagnosis", "Rationale"]
    assert official_files.printed(SCORERS["Diagnosis"], found).line == "50.00"
    file.write_text(f"task_id,input,GT,output\n{rows}task52,j,said,\n")
    dead = official_files.printed(SCORERS["Diagnosis"], submission.read(file))
    assert dead.death == "AttributeError: 'float' object has no attribute 'lower'"
    assert dead.row == 3
