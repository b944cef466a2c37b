"""The column `official` beside the benchmark's own scorer, on its 300 published predictions.

    python -m tests.benchmarks scorers [FILE.csv]

FILE.csv is a submission; without it, the published one in the folder that MEDSJAX_REALDATA names.
The other scorer is run where `rouge`, `nltk` and NLTK's punkt_tab are installed, else what it took
once is printed. Both are warm: dictionaries loaded, code compiled, on all cores processes started.
One process is timed by the processor's time, so that others' load counts little; all cores by the
clock.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eval import score, submission
from eval.submission import Submission
from eval.tasks import TASKS
from medsjax.errors import UserError

# Rows a second of the scorer at commit 185cfc0 (Python 3.11, nltk 3.9.1, rouge 1.0.1), one process
# of a Xeon with two cores at hand, median of warm runs: measured when the goldens were made.
RECORDED = {"zh": 75.3, "en": 90.2, "fr": 96.7, "ja": 6.0, "ru": 291.0, "es": 147.0}
RECORDED_TOTAL = 32.5
CHUNK = 10  # rows a process gets at a time


def theirs() -> Callable[[str, str, str], tuple[float, float]] | None:
    """Its (prediction, gold, language) -> (BLEU-1, ROUGE) by its libraries, if they are here."""
    try:
        import jieba
        from janome.tokenizer import Tokenizer
        from nltk.tokenize import word_tokenize
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
        from rouge import Rouge

        word_tokenize("Loads its data.")
    except (ImportError, LookupError):
        return None
    sys.setrecursionlimit(10_000)

    def tokens(text: str, language: str) -> list[str]:
        if language == "zh":
            return list(jieba.cut(text))
        if language == "ja":
            return [token.surface for token in Tokenizer().tokenize(text)]
        return word_tokenize(text)

    def similarity(prediction: str, gold: str, language: str) -> tuple[float, float]:
        pair = tokens(gold, language), tokens(prediction, language)
        smooth = SmoothingFunction().method1
        bleu = sentence_bleu([pair[0]], pair[1], smoothing_function=smooth, weights=(1, 0, 0, 0))
        if language in ("zh", "ja"):
            gold, prediction = (" ".join(tokens(text, language)) for text in (gold, prediction))
        return bleu, Rouge().get_scores(prediction, gold)[0]["rouge-l"]["f"]

    return similarity


def rows_by_task(its: Submission) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for i, task in enumerate(its.tasks):
        if score.is_text(task):
            rows.setdefault(task, []).append(i)
    return rows


def seconds(call: Callable, argument, clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    call(argument)
    return clock() - start


def their_work(job: tuple) -> None:
    _, task, golds, outputs = job
    similarity = theirs()
    for gold, output in zip(golds, outputs, strict=True):
        similarity(output.strip(), gold.strip(), TASKS[task].language)


def on_all_cores(its: Submission, rows: dict[str, list[int]]) -> float:
    """Seconds for all rows in as many processes as cores, which have started and are warm."""
    first = [score.inputs(its, "official", task, its_rows[:1]) for task, its_rows in rows.items()]
    jobs = [
        score.inputs(its, "official", task, its_rows[i : i + CHUNK])
        for task, its_rows in rows.items()
        for i in range(0, len(its_rows), CHUNK)
    ]
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        list(pool.map(score.work, first * cores * 4))
        return seconds(lambda jobs: list(pool.map(score.work, jobs)), jobs, time.perf_counter)


def published() -> Path:
    folder = os.environ.get("MEDSJAX_REALDATA")
    found = sorted(Path(folder or ".").glob("official/eval_results_Rationale*.csv"))
    if not folder or not found:
        raise UserError("scorers: name a CSV, or set MEDSJAX_REALDATA to the folder of real data")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, help="a submission with free-text tasks")
    its = submission.read(parser.parse_args().file or published())
    rows = rows_by_task(its)
    if not rows:
        raise UserError(f"{its.file}: no free-text task in it")
    here = theirs() is not None
    head = "official scorer" + ("" if here else ", recorded")
    table = Table("task", "language", "rows", "rows/s", head, "ratio", title="BLEU-1 and ROUGE")
    ours = other = 0.0
    for task, its_rows in rows.items():
        job, warm = (score.inputs(its, "official", task, its_rows[:n]) for n in (None, 1))
        score.work(warm)
        took = seconds(score.work, job)
        language = TASKS[task].language
        slow = len(its_rows) / RECORDED[language]
        if here:
            their_work(warm)
            slow = seconds(their_work, job)
        ours, other = ours + took, other + slow
        table.add_row(task, language, *figures(len(its_rows), took, slow))
    n = sum(map(len, rows.values()))
    other = other if here else n / RECORDED_TOTAL
    table.add_section()
    table.add_row("all", "", *figures(n, ours, other))
    table.add_row(f"all, {os.cpu_count()} cores", "", *figures(n, on_all_cores(its, rows), other))
    console = Console()
    console.print(table)
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


def figures(n: int, took: float, theirs: float) -> tuple[str, ...]:
    return str(n), f"{n / took:,.0f}", f"{n / theirs:,.1f}", f"{theirs / took:,.1f}"


if __name__ == "__main__":
    from medsjax.errors import run_main

    run_main(main)
