"""The official column against the official scorer's own results on made-up rows (tests/golden)."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from eval.scorers import official
from eval.tasks import TASKS

GOLDEN = Path(__file__).parent / "golden"
CATEGORIES = (
    *("ClinicalOutcomePrediction", "ConceptExplanation", "Diagnosis", "FactVerification"),
    *("InformationExtraction", "MCQA", "NamedEntityRecognition", "NatureLanguageInference"),
    *("Rationale", "TextClassification", "TextSummarization", "TreatmentPlanning"),
)


def read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**9)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def verdict(category: str, row: dict[str, str]) -> official.Verdict | None:
    task = "task130" if category == "Diagnosis" else row["task_id"]
    if task not in official.RULES:
        return None
    return official.judge(task, official.cell(row["GT"]), official.cell(row["output"]))


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_row(category):
    rows, wanted = read(GOLDEN / category / "preds.csv"), read(GOLDEN / category / "rows.csv")
    assert len(rows) == len(wanted)
    for row, want in zip(rows, wanted, strict=True):
        got = verdict(category, row)
        if want["status"] == "ignored_task":
            continue  # another category's task
        assert got.status == want["status"], want
        if got.status != "scored":
            continue
        if want.get("tp"):
            names = ("tp", "fp", "fn")
        elif want.get("bleu1"):
            names = ("bleu1", "rougeL")
        elif "correct" in want:
            names = ("correct",)
        else:
            cells = np.array(got.values).reshape(-1, 3)
            meant, said = cells[:, 0] + cells[:, 2], cells[:, 0] + cells[:, 1]
            for found, column in ((meant, "gt_classes"), (said, "pred_classes")):
                numbers = want[column].replace(";", " ").replace("|", " ").replace(",", " ")
                assert np.flatnonzero(found).tolist() == [int(x) for x in numbers.split()]
            continue
        assert got.values == pytest.approx([float(want[n]) for n in names], abs=1e-9), want


@pytest.mark.parametrize("category", CATEGORIES)
def test_what_the_official_code_dies_of(category):
    for row in read(GOLDEN / category / "crashes.csv"):
        got = verdict(category, row)
        assert got.status == "crash", row["note"]
        assert got.crash == f"{row['exception']}: {row['message']}"


@pytest.mark.parametrize("category", CATEGORIES)
def test_file_results(category):
    results = json.loads((GOLDEN / category / "official.json").read_text())["results"]
    rows = read(GOLDEN / category / "preds.csv")
    pools = {"CT": range(83, 89), "MRI": range(89, 95)}
    for name, wanted in results.items():
        ids = {f"task{i}" for i in pools[name]} if name in pools else {name}
        if name == "all":
            ids = {row["task_id"] for row in rows}
        verdicts = [verdict(category, row) for row in rows if row["task_id"] in ids]
        task = "task130" if name == "all" else min(ids)
        kind = TASKS[task].kind if task in TASKS else "choice"
        stats = official.statistics(verdicts, official.RULES[task].width)
        got = official.metrics(kind, stats.sum(0))
        for metric, value in wanted.items():
            ours = {"accuracy": "acc", "f1_score": "f1"}.get(metric, metric)
            assert math.isclose(got[ours], value, abs_tol=1e-9), (name, metric)
