"""python -m eval.score: models found, numbers, what is left out, processes, tables, files."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from eval import comparison, score, scores, submission
from medsjax.errors import UserError, run_main

GOLDEN = Path(__file__).parent / "golden"
HEADER = "task_id,input,GT,output\n"


def write(file, rows, header=HEADER):
    file.parent.mkdir(exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as out:
        out.write(header)
        csv.writer(out).writerows(rows)
    return file


def nli(outputs, gold="Neutral"):
    return [("task41", f"input {i}", gold, output) for i, output in enumerate(outputs)]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eval.score", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "120")
    run_main(score.main)


def refused(monkeypatch, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and "\n" not in told
    return told


def test_models_are_files_folders_and_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = write(tmp_path / "m" / "a.csv", []), write(tmp_path / "m" / "b.csv", [])
    odd = write(tmp_path / "x=y.csv", [])
    found = score.find([str(tmp_path / "m"), "new=m/a.csv", "new=m/b.csv", "x=y.csv"])
    assert found == {
        "m": [a, b],
        "new": [Path("m/a.csv"), Path("m/b.csv")],
        "x=y": [Path(odd.name)],
    }
    with pytest.raises(UserError, match=r"a second model 'a'; name it: NAME=m/a\.csv"):
        score.find([str(a), "m/a.csv"])
    (tmp_path / "m" / "predictions.jsonl").touch()
    assert score.find(["m"]) == {"m": [Path("m/predictions.jsonl")]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="and no predictions"):
        score.find(["empty"])


def test_the_three_columns_of_one_file(tmp_path):
    rows = [
        *nli(["neutral", "Neutral or entailment", "", "entailment"]),
        ("task29", "i", "5", "25"),
    ]
    found = score.evaluate(
        {"m": score.read([write(tmp_path / "m.csv", rows)])}, list(scores.COLUMNS)
    )
    results = found["m"]["results"]
    assert results["task41"]["acc,fixed"] == pytest.approx(25)
    assert results["task41"]["acc,official"] == pytest.approx(50)  # by substring
    assert results["task41"]["acc,standard"] == pytest.approx(25)
    assert (results["task29"]["acc,fixed"], results["task29"]["acc,official"]) == (0, 100)
    assert found["m"]["primary"] == {"task41": "acc,fixed", "task29": "acc,fixed"}
    assert found["m"]["counts"]["empty_predictions"] == 1
    assert found["m"]["n-shot"] == {"task41": None, "task29": None}
    json.dumps(found, allow_nan=False)


def test_official_reads_columns_as_pandas_does(tmp_path):
    """A column of numbers: "5" beside an empty cell is 5.0, which is not in "5 mg"."""
    rows = [("task29", "i", "5", "5 mg"), ("task29", "j", "", "none")]
    model = score.read([write(tmp_path / "m.csv", rows)])
    assert score.evaluate({"m": model}, ["official"])["m"]["results"]["task29"]["acc,official"] == 0
    rows[1] = ("task29", "j", "x", "none")
    model = score.read([write(tmp_path / "m.csv", rows)])
    assert (
        score.evaluate({"m": model}, ["official"])["m"]["results"]["task29"]["acc,official"] == 50
    )


def test_a_task_scores_as_the_official_scripts_print_it(monkeypatch):
    monkeypatch.setattr(scores, "_trivial", lambda *_: 0.0)  # slow, and not looked at here
    names = ("MCQA", "NamedEntityRecognition", "TextSummarization", "FactVerification")
    models = {name: [submission.read(GOLDEN / name / "preds.csv")] for name in names}
    found = score.evaluate(models, ["official"])
    for name, its in found.items():
        printed = its["official"]["files"][str(models[name][0].file)][name]["results"]
        shared = printed.keys() & its["results"].keys()
        assert len(shared) >= 3
        for task in shared:
            for metric, value in printed[task].items():
                assert its["results"][task][f"{metric},official"] == pytest.approx(value)
    assert {"task4", "task5"} <= found["MCQA"]["unscored"].keys()
    assert "task4" not in found["MCQA"]["results"]


def test_processes_give_the_same(monkeypatch):
    monkeypatch.setattr(scores, "_trivial", lambda *_: 0.0)
    files = [submission.read(GOLDEN / "NatureLanguageInference" / "preds.csv")]
    alone = score.evaluate({"m": files}, ["official"])
    monkeypatch.setattr(score, "MANY", 1)
    monkeypatch.setattr(score, "CHUNK", 7)
    monkeypatch.setattr(score.os, "cpu_count", lambda: 2)
    assert score.evaluate({"m": files}, ["official"]) == alone


def test_rows_on_which_the_official_code_dies(tmp_path, monkeypatch, capsys):
    rows = [("task52", f"i{i}", "Normal study.", said) for i, said in enumerate(["x", "", ".", ""])]
    rows.append(("task126", "i", "aspirin.", ""))
    run(monkeypatch, write(tmp_path / "m.csv", rows), "--out", tmp_path / "out" / "scores.json")
    shown = capsys.readouterr().out
    dead = "AttributeError: 'float' object has no attribute 'strip'"
    assert f"official Rationale: the official scorer dies on this file: {dead} (row 2)" in shown
    assert f"official task52: 2 rows counted as wrong, on which its scorer dies of {dead}" in shown
    assert "m.csv row 2, 4" in shown and "Normal" not in shown
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [its["rows"] for its in found["official"]["deaths"]] == [[2, 4], [3]]
    assert found["official"]["files"][str(tmp_path / "m.csv")]["Rationale"]["results"] == {}
    assert found["n-samples"]["task52"] == 4
    assert found["official"]["skipped"] == {"task126": 1}
    assert "pass over: task126 (1 row)" in shown


def test_tasks_outside_the_benchmark_are_left_out_or_refused(tmp_path, monkeypatch, capsys):
    rows = [*nli(["neutral"]), ("task999", "i", "g", "o"), ("Patient has a cough", "i", "h", "o")]
    file = write(tmp_path / "m.csv", [*rows, ("task999", "j", "g", "o")])
    run(monkeypatch, file, "--scoring", "fixed")
    shown = capsys.readouterr().out
    told = "(no task id) (1 row), task999 (2 rows)"
    assert f"left out, of no task of the benchmark: {told}" in shown and "Patient" not in shown
    assert told in refused(monkeypatch, capsys, file, "--strict")
    only = write(tmp_path / "n.csv", rows[1:])
    assert "none of the 53 scored tasks" in refused(monkeypatch, capsys, only)


def test_bad_files_are_one_line(tmp_path, monkeypatch, capsys):
    twice = write(tmp_path / "m.csv", nli(["neutral"]) * 2)
    assert "line 3: repeats" in refused(monkeypatch, capsys, twice)
    run(monkeypatch, twice, "--scoring", "fixed", "--keep-duplicates")
    bare = write(tmp_path / "n.csv", nli(["neutral"], gold=""))
    assert "task41: no row has a gold" in refused(monkeypatch, capsys, bare)
    assert "cannot be read" in refused(monkeypatch, capsys, tmp_path / "none.csv")


def test_two_models_side_by_side(tmp_path, monkeypatch, capsys):
    one = write(tmp_path / "=one.csv", [*nli(["neutral", "x"]), ("task1", "i", "g", "g")])
    two = write(tmp_path / "two.csv", [*nli(["neutral", "neutral"]), ("task1", "other", "g", "g")])
    sheet, out = tmp_path / "t.csv", tmp_path / "scores.json"
    run(monkeypatch, one, two, "--scoring", "fixed", "--csv", sheet, "--out", out)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "task41" in line)
    assert "50.00 [0.0–100.0]" in row and "100.00 [100.0–100.0]" in row and "≠" not in row
    assert "≠" in next(line for line in shown.splitlines() if "│ task1 " in line)
    assert "│ mean " in shown
    found = json.loads(out.read_text())
    assert list(found) == ["=one", "two"] and found["two"]["results"]["task41"]["acc,fixed"] == 100
    lines = list(csv.DictReader(io.StringIO(sheet.read_text())))
    assert {line["model"] for line in lines} == {"'=one", "two"}
    assert [float(line["score"]) for line in lines if line["task"] == "task41"] == [50, 100]


def test_a_task_that_one_model_lacks(tmp_path):
    models = {
        "a": score.read([write(tmp_path / "a.csv", nli(["neutral"]))]),
        "b": score.read([write(tmp_path / "b.csv", [("task114", "i", "a b", "a b")])]),
    }
    found = score.evaluate(models, ["standard"])
    columns = comparison.table(found, "standard", set()).columns
    assert [list(columns[i].cells) for i in (0, 5, 6)] == [  # and no mean
        ["task114", "task41"],
        ["–", "100.00 [100.0–100.0]"],
        ["100.00/100.00 [100.0–100.0]", "–"],
    ]


def test_the_published_example(realdata, monkeypatch, capsys):
    monkeypatch.setattr(scores, "_trivial", lambda *_: 0.0)  # slow, and not looked at here
    (file,) = (realdata / "official").glob("eval_results_Rationale*.csv")
    run(monkeypatch, file, "--scoring", "official")
    wanted = "51.50/35.35 48.54/38.22 47.64/39.24 53.31/36.83 34.91/23.71 47.08/36.42"
    shown = capsys.readouterr().out
    assert f"{wanted} Avg. 47.17/34.96" in shown
    assert all(cell in shown.split("official Rationale")[0] for cell in wanted.split())
