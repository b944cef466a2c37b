"""The tasks of MedS-Ins and MedS-Bench: what each is, where it comes from, who may have it.

`CATALOG` holds the 122 training tasks and the three that only the benchmark has. The authors print
no list of tasks: category and domain are inferred from each task's definition and corpus, under the
paper's labels (its Fig. 2) and two categories of ours, Question Generation and Concept Matching.
"unknown" stands where nothing is stated.
"""

import csv
from pathlib import Path
from typing import NamedTuple

BENCH_ONLY = ("task122", "task123", "task127")


class Entry(NamedTuple):
    task: str  # "task12"
    name: str  # of its file, between the number and the suffix, in the authors' spelling; or ""
    category: str  # inferred
    domain: str  # inferred: one of the paper's five text domains, or "unknown"
    dataset: str  # the corpus it was made from
    licence: str  # of that corpus
    access: str  # open | unknown | registration: WHERE | credentialed: WHERE
    medical: bool
    scored: bool  # one of the 53 tasks behind the paper's tables


def _read(path: Path) -> dict[str, Entry]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    flags = [{key: row[key] == "yes" for key in ("medical", "scored")} for row in rows]
    return {row["task"]: Entry(**row | flag) for row, flag in zip(rows, flags, strict=True)}


CATALOG: dict[str, Entry] = _read(Path(__file__).with_name("catalog.csv"))
TRAINING: tuple[str, ...] = tuple(task for task in CATALOG if task not in BENCH_ONLY)
