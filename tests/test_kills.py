"""An evaluation killed at random moments and started again ends as one that nobody disturbed.

Killed is killed: SIGKILL, in a process of its own. In the sampler's place answers an oracle that is
slow and keeps a book of what it was asked, so that what is lost or done twice shows.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from eval import predictions
from eval.medsbench import MedSBench
from medsjax import sampler

N = 40  # items of each task
KILLS = 20
PACE = 0.01  # seconds an answer
BENCH = MedSBench(path="test", shots_from="train", limit=-1, batch=4)


def evaluate(root: Path, out: str) -> None:
    from tests.test_medsbench import MODEL, TOKENIZER, Oracle  # makes arrays: never before a fork

    def slow(*args, **kwargs):
        for i, ids in Oracle()(*args, **kwargs):
            time.sleep(PACE)
            with open("book", "a") as book:
                book.write(f"{i}\n")
            yield i, ids

    os.chdir(root)
    sampler.stream = slow
    BENCH(MODEL, TOKENIZER, 0, out)


@pytest.fixture(scope="module")
def process():
    """Starts `evaluate` in a process, forked from a server that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(*args):
        its = context.Process(target=evaluate, args=args, daemon=True)
        its.start()
        return its

    return start


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path, process):
    from tests.test_medsbench import GOLDS, question, write_task

    for task in GOLDS:
        write_task(tmp_path / "test", task, [question(task, i) for i in range(N)])
        write_task(tmp_path / "train", task, [f"shot {i} of {task}" for i in range(8)])
    total, book = N * len(GOLDS), tmp_path / "book"
    one, other = tmp_path / "whole", tmp_path / "killed"
    written = other / "predictions.jsonl"
    undisturbed = process(tmp_path, "whole")
    undisturbed.join(60)
    assert undisturbed.exitcode == 0 and lines(book) == total
    book.unlink()

    rng, reached = random.Random(0), []
    for kill in range(1, KILLS + 1):
        its, before, deadline = process(tmp_path, "killed"), lines(book), time.monotonic() + 30
        # Some answers later, or while it is still starting; the last time while it scores.
        more = rng.choice((0, rng.randrange(1, 12)))
        file, least = (written, total) if kill == KILLS else (book, min(before + more, total))
        while lines(file) < least and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.8 if file is book and not more else PACE))
        os.kill(its.pid, signal.SIGKILL)
        its.join()
        assert its.exitcode == -signal.SIGKILL
        reached.append(len(predictions.read(other)))
    assert reached == sorted(reached) and len(set(reached)) > KILLS / 3 and reached[-1] == total
    assert not (other / "scores.json").exists()

    last = process(tmp_path, "killed")
    last.join(60)
    assert last.exitcode == 0
    content = written.read_bytes()
    assert content == (one / "predictions.jsonl").read_bytes()
    keys = [(row["task"], row["index"]) for row in map(json.loads, content.splitlines())]
    assert len(keys) == len(set(keys)) == total
    assert total <= lines(book) <= total + KILLS  # again: what was answered but not yet written
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (one, other)]
    assert scores[0].pop("timing")["requests"] == total and "timing" not in scores[1]
    assert scores[0] == scores[1]
    for sheet in (one / "leaderboard").iterdir():
        name = sheet.name.replace("_whole.csv", "_killed.csv")
        assert sheet.read_bytes() == (other / "leaderboard" / name).read_bytes()
    assert sorted(p.name for p in other.iterdir()) == sorted(p.name for p in one.iterdir())
