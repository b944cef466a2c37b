"""A folder's predictions: one JSON line an item, written as they come, whole after a kill.

`predictions.jsonl` holds objects with the keys task, index (the item's number in its task), id,
n_shots, dropped_shots, cut_chars, prompt_tokens, gold (a list), new_tokens, prediction and sum, a
checksum of the rest. `settings.json` holds what the predictions depend on; other settings are
refused. At the end `leaderboard/` gets the same as the benchmark's leaderboard takes it: a CSV file
a category. Golds and predictions are medical text: the folder is made for its owner alone.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.tasks import TASKS
from medsjax.errors import UserError

Row = dict[str, Any]
Key = tuple[str, int]  # task, index


def write_atomic(file: Path, text: str) -> None:
    """The file is there whole, or as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, file)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make `folder` the one of these settings, or say in which one it differs from its own.

    Settings with which nothing was predicted yet give way. A folder that is there keeps its mode.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    file = folder / "settings.json"
    made = [name for name in ("predictions.jsonl", "scores.json") if _has_content(folder / name)]
    if not made:
        write_atomic(file, json.dumps(settings, indent=1) + "\n")
        return
    if not file.exists():
        raise UserError(f"{folder}: {made[0]} without settings.json; use another folder")
    there = read_json(file)
    for key, value in settings.items():
        if there.get(key) != value:
            raise UserError(
                f"{folder}: made with {key} {_short(there.get(key))}, not {_short(value)};"
                " remove the folder or use another"
            )


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); remove it") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: is no JSON object; remove it")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:36]}…"


def line(row: Row) -> str:
    """The row as its line, with its checksum."""
    return json.dumps({**row, "sum": _sum(row)}, ensure_ascii=False) + "\n"


def _sum(row: Row) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:8]


def read(folder: Path) -> dict[Key, Row]:
    """The whole rows by key, the first of each. A cut or damaged line is as good as not there."""
    rows: dict[Key, Row] = {}
    file = folder / "predictions.jsonl"
    for text in file.read_bytes().split(b"\n") if file.exists() else ():
        try:
            row = json.loads(text)
            if row.pop("sum") == _sum(row):
                rows.setdefault((row["task"], row["index"]), row)
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
    return rows


def write(folder: Path, rows: list[Row]) -> None:
    write_atomic(folder / "predictions.jsonl", "".join(map(line, rows)))


def write_leaderboard(folder: Path, rows: list[Row], input_of: Callable[[Row], str]) -> None:
    """CSV files with the columns task_id, input, GT (the first gold) and output.

    Cells are as they are, formulas and all: a scorer is to read them, not a spreadsheet.
    """
    by_category: dict[str, list[Row]] = {}
    for row in rows:
        by_category.setdefault(TASKS[row["task"]].category.replace(" ", "_"), []).append(row)
    model = folder.resolve().name.replace("_", "-")  # the leaderboard takes what follows the last _
    for category, its in by_category.items():
        text = io.StringIO()
        lines = csv.writer(text)
        lines.writerow(("task_id", "input", "GT", "output"))
        for row in its:
            lines.writerow((row["task"], input_of(row), row["gold"][0], row["prediction"]))
        name = f"eval_results_{category}_1_context_1_oriINS_{model}.csv"
        write_atomic(folder / "leaderboard" / name, text.getvalue())
