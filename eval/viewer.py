"""Items of an evaluation with all that belongs to them: prompt, answer, golds, what scorers say."""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from data.prompts import Turns
from eval import predictions
from eval.predictions import Row
from eval.runs import Evaluation, Run
from eval.scorers import fixed, official, standard
from eval.tables import METRICS
from eval.tasks import TASKS, Task
from medsjax.errors import UserError


class Sample(NamedTuple):
    id: str
    prompt: Turns | None  # None: its data is not here
    answer: str
    golds: list[str]
    verdicts: list[tuple[str, str]]  # a scoring column and what it made of the answer


def samples(run: Run, n: int) -> tuple[list[tuple[str, list[Sample]]], str]:
    """The first `n` items of every task of the last evaluation, and why they are without prompts,
    "" where they have them. A UserError without predictions.jsonl.
    """
    if not run.after or not (run.after.folder / "predictions.jsonl").exists():
        raise UserError(f"{run.name}: no predictions.jsonl for --examples; evaluate the run again")
    prompt_of, why_not = _prompts(run.after)
    shown: dict[str, list[Sample]] = {task: [] for task in run.after.tasks}
    for (task, _), row in sorted(predictions.read(run.after.folder).items()):
        if task in shown and len(shown[task]) < n:
            golds, answer = list(row["gold"]), row["prediction"]
            verdicts = judged(TASKS[task], answer, golds) if task in TASKS else []
            shown[task].append(Sample(str(row["id"]), prompt_of(row), answer, golds, verdicts))
    return [(task, its) for task, its in shown.items() if its], why_not


def _prompts(evaluation: Evaluation) -> tuple[Callable[[Row], Turns | None], str]:
    """A function from a row to the turns it answers, and why it gives None instead.

    Prompts are not stored: they are made again from the settings and the same data.
    """
    from eval.medsbench import MedSBench  # jax, of which a report without examples has no need

    config = evaluation.config
    names = {field.name for field in fields(MedSBench)}
    if not {"path", "shots_from", "layout", "draw", "data", "shots_data"} <= config.keys():
        return _none, "scores.json does not tell the settings that made them"
    try:
        bench = MedSBench(**{name: config[name] for name in names & config.keys()})
        built, pools, _ = bench.check()
    except (UserError, OSError, TypeError) as error:
        return _none, f"the test or training items are not at hand ({type(error).__name__})"
    if (built.fingerprint, pools.fingerprint if pools else "") != (
        config["data"],
        config["shots_data"],
    ):
        return _none, f"{bench.path} or {bench.shots_from} now holds other items"
    return lambda row: bench.turns(built, pools, row), ""


def _none(row: Row) -> None:
    return None


def judged(task: Task, answer: str, golds: list[str]) -> list[tuple[str, str]]:
    """What each column makes of one answer."""
    mended, library = (
        scorer.score_rows(task, [answer], [tuple(golds)]) for scorer in (fixed, standard)
    )
    if task.kind in ("ner", "multilabel"):
        said = _counts(mended[0])
    else:
        said = _metrics(fixed.aggregate(task, mended, np.ones(1)))
    others = standard.aggregate(task, library, np.ones(1))
    if task.labels:  # means over labels say nothing of one item
        others = {name: others[name] for name in ("acc", "em", "token_f1")}
    return [
        ("fixed", said),
        ("official", _official(task, answer, golds[0])),
        ("standard", _metrics(others)),
    ]


def _official(task: Task, answer: str, gold: str) -> str:
    verdict = official.judge(task.id, official.cell(gold), official.cell(answer))
    if verdict.status == "crash":
        return f"its scorer dies here; counted as wrong: {verdict.crash}"
    if verdict.status == "skipped":
        return "passed over, not counted"
    if verdict.status == "counted_zero":
        return "not compared, counted as 0"
    if task.kind in ("ner", "multilabel"):
        return _counts(np.array(verdict.values))
    return _metrics(
        official.metrics(task.kind, official.statistics([verdict], len(verdict.values))[0])
    )


def _counts(triples: np.ndarray) -> str:
    right, wrong, missed = triples.reshape(-1, 3).sum(0)
    return f"{right:.0f} right, {wrong:.0f} wrong, {missed:.0f} missed"


def _metrics(values: dict[str, np.ndarray]) -> str:
    return ", ".join(
        f"{METRICS.get(name, name)} {float(value):.1f}" for name, value in values.items()
    )
