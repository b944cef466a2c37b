"""The paper's tables as CSV: complete, and their averages follow from their cells."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from eval.tasks import TASKS

FOLDER = Path(__file__).parents[1] / "eval" / "paper"
CELLS = {1: 67, 2: 140, 3: 60, 4: 80, 5: 126, 6: 50, 7: 80, 8: 70}
# Averages that the paper prints otherwise than its own cells give: (mean of the cells, printed).
MISPRINTED = {(1, "GPT-4", "acc"): (75.9, 75.3), (1, "Mistral", "acc"): (59.62, 49.1)}


def table(number: int) -> list[dict[str, str]]:
    with open(FOLDER / f"table{number}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("number", CELLS)
def test_cells(number):
    rows = table(number)
    assert sum(row["value"] != "" for row in rows) == CELLS[number]
    assert all(0 <= float(row["value"]) <= 100 for row in rows if row["value"])
    key = Counter((r["model"], r["dataset"], r["metric"]) for r in rows)
    assert set(key.values()) == {1}
    for row in rows:
        assert all(task in {*TASKS, "CT", "MRI"} for task in row["tasks"].split())


@pytest.mark.parametrize("number", range(1, 7))
def test_averages_follow_from_the_cells(number):
    rows = [row for row in table(number) if row["value"]]
    value = {(r["model"], r["tasks"], r["metric"]): float(r["value"]) for r in rows}
    odd = {}
    for row in rows:
        if row["dataset"] != "Avg.":
            continue
        cells = [value.get((row["model"], t, row["metric"])) for t in row["tasks"].split()]
        assert None not in cells
        mean = sum(cells) / len(cells)
        if abs(mean - float(row["value"])) > 0.06:
            odd[number, row["model"], row["metric"]] = round(mean, 2), float(row["value"])
    assert odd == {k: v for k, v in MISPRINTED.items() if k[0] == number}
