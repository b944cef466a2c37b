"""What a RUN folder holds: its evaluations, its logged metrics, its settings.

A RUN is a workdir of training (metrics.jsonl, eval/step_N/scores.json, config.json) or a folder
with one scores.json. Anything may be missing; what is there must be whole, save for lines of
metrics.jsonl.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from medsjax.errors import UserError


class Mark(NamedTuple):
    """A score with its 95 % interval, percent. None: not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One scores.json. Numbers are percent, None where the file has no finite number."""

    folder: Path
    label: str  # "step 150", or "" outside a training run
    scores: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Tasks by category, within it by number."""

        def key(task: str) -> tuple[str, float, str]:
            digits = re.search(r"\d+", task)
            return self.category(task), int(digits[0]) if digits else math.inf, task

        return sorted(self.scores["primary"], key=key)

    @property
    def mean(self) -> Mark:
        return mean_of(self.scores.get("summary", {}))

    @property
    def trivial(self) -> float | None:
        return number(self.scores.get("summary", {}).get("trivial"))

    @property
    def categories(self) -> dict[str, dict[str, Any]]:
        return self.scores.get("summary", {}).get("by_category", {})

    @property
    def config(self) -> dict[str, Any]:
        return self.scores.get("config", {})

    def of(self, section: str, task: str) -> Any:
        return self.scores.get(section, {}).get(task)

    def about(self, task: str) -> dict[str, Any]:
        return self.of("tasks", task) or {}

    def category(self, task: str) -> str:
        return str(self.about(task).get("category", ""))

    def metric(self, task: str) -> tuple[str, str]:
        """The primary score's metric and scorer: ("acc", "fixed")."""
        metric, _, scorer = (self.of("primary", task) or "").partition(",")
        return metric, scorer

    def mark(self, task: str) -> Mark:
        """The primary score with its interval; without one, 1.96 standard errors cut to 0..100."""
        metric, scorer = self.metric(task)
        result = self.of("results", task) or {}
        value = number(result.get(f"{metric},{scorer}"))
        low, high = interval(result.get(f"{metric}_ci95,{scorer}"))
        error = number(result.get(f"{metric}_stderr,{scorer}"))
        if None in (low, high) and None not in (value, error):
            low, high = max(0.0, value - 1.96 * error), min(100.0, value + 1.96 * error)
        return Mark(value, low, high)

    def trivial_of(self, task: str) -> float | None:
        return number((self.of("results", task) or {}).get(f"trivial,{self.metric(task)[1]}"))


@dataclass(frozen=True)
class Run:
    """What a RUN holds. With one evaluation `before` is None, with none `after` is too."""

    name: str
    before: Evaluation | None
    after: Evaluation | None
    metrics: list[dict[str, Any]]
    broken_lines: int
    config: dict[str, Any]


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Every RUN; those of equal names are named by their paths."""
    runs = [read(path) for path in paths]
    names = Counter(run.name for run in runs)
    return [
        replace(run, name=str(path)) if names[run.name] > 1 else run
        for run, path in zip(runs, paths, strict=True)
    ]


def read(path: Path) -> Run:
    """Read what is there. A UserError where that is nothing, or where a JSON file is broken."""
    if not path.is_dir():
        raise UserError(f"{path}: not a folder; a RUN is a workdir or a folder with scores.json")
    evaluations = read_evaluations(path)
    metrics, broken = read_metrics(path / "metrics.jsonl")
    if not evaluations and not metrics:
        raise UserError(f"{path}: nothing to show: no scores.json, no metrics; name another folder")
    configs = [path / name for name in ("config.json", "identity.json")]
    return Run(
        name=path.resolve().name,
        before=evaluations[0] if len(evaluations) > 1 else None,
        after=evaluations[-1] if evaluations else None,
        metrics=metrics,
        broken_lines=broken,
        config=next((read_json(file) for file in configs if file.exists()), {}),
    )


def read_evaluations(path: Path) -> list[Evaluation]:
    """Every eval/step_N in the order of N; without any, the folder's own scores.json."""
    found = [
        (int(match[1]), folder)
        for folder in path.glob("eval/step_*")
        if (match := re.fullmatch(r"step_(\d+)", folder.name)) and (folder / "scores.json").exists()
    ]
    folders = [(folder, f"step {step:,}") for step, folder in sorted(found)]
    if not folders and (path / "scores.json").exists():
        folders = [(path, "")]
    return [
        Evaluation(folder, label, read_scores(folder / "scores.json")) for folder, label in folders
    ]


def read_scores(file: Path) -> dict[str, Any]:
    scores = read_json(file)
    for key in ("results", "primary"):
        if not isinstance(scores.get(key), dict):
            raise UserError(f"{file}: no object {key!r}; score the predictions again")
    return scores


def read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({type(error).__name__}); write it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; write it again")
    return value


def read_metrics(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows, and the number of lines that are none: a killed run may leave half a line."""
    rows, broken = [], 0
    for line in file.read_text("utf-8", errors="replace").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and number(row.get("step")) is not None:
            rows.append(row)
        else:
            broken += 1
    return rows, broken


def mean_of(summary: dict[str, Any]) -> Mark:
    """The mean that a part of `summary` holds, with its interval."""
    return Mark(number(summary.get("mean")), *interval(summary.get("ci95")))


def interval(ends: Any) -> tuple[float | None, float | None]:
    low, high = ends or (None, None)
    return number(low), number(high)


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
