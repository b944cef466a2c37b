"""Training that SIGTERM stops: exit code 0, and the same command ends in the same bits."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from medsjax import convert, input_pipeline, metrics, train
from medsjax.config import Config, Optim, Run
from medsjax.hosts import Hosts
from medsjax.sharding import one_device
from medsjax.sigterm import Stopped
from tests.test_train import Repeat


def config(model, workdir) -> Config:
    """A run of 11 steps with a row of metrics for each."""
    return Config(
        model=str(model),
        data=Repeat(),
        heldout=Repeat(8, salt=1),
        **{"length": 32, "batch": 8, "epochs": 3.5, "dtype": "float32"},
        optim=Optim(lr=1e-3),
        workdir=str(workdir),
        run=Run(log_every=1, save_every=4, keep=3, bench_at="none", remat="none"),
    )


@contextlib.contextmanager
def caught():
    """As `train.main` takes the signal, and put back afterwards."""
    before, us = signal.getsignal(signal.SIGTERM), Hosts()
    us.end = lambda code: None  # this process has other things to do
    with us.sigterm.caught():
        yield us
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, before)


def rows(workdir: Path) -> list[dict]:
    ran = metrics.read(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second")} for row in ran]


def test_the_row_of_a_pass_that_was_cut_off_is_filled_in(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = metrics.MetricsFile(path, 0)
    for loss, step in ((3.0, 0), (2.0, 4), (None, 8)):
        file.write({"step": step, "loss": 1.0, "heldout_loss": loss})
    again = metrics.MetricsFile(path, 8)
    assert again.cut_off
    again.complete(1.5)
    ran = metrics.read(path)
    assert [row["heldout_loss"] for row in ran] == [3.0, 2.0, 1.5] and ran[2]["loss"] == 1.0
    assert not metrics.MetricsFile(path, 8).cut_off


@pytest.mark.slow
def test_stopped_anywhere_the_same_command_ends_in_the_same_bits(
    tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(train, "make_mesh", lambda *_: one_device())
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train.train(config(tiny_folder, whole))

    def stopped_in(part, name: str) -> Stopped | None:
        original = getattr(part, name)

        def stops(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # a busy machine takes its time
            return original(*args, **kwargs)

        with monkeypatch.context() as patch, caught() as us:
            patch.setattr(part, name, stops)
            try:
                train.train(config(tiny_folder, cut), us)
            except Stopped as stopped:
                return stopped.with_traceback(None)  # which would keep the workdir's lock

    def last() -> int:
        return max((int(p.name) for p in cut.glob("checkpoints/[0-9]*")), default=0)

    for part, name, saved, there in (
        (convert, "load", None, 0),
        (train.Heldout, "__call__", None, 0),
        (metrics.Log, "step", 2, 2),
        (input_pipeline, "heldout_batches", 11, 11),  # that pass is cut off, and done on resuming
        (convert, "save", None, 11),
    ):
        stopped = stopped_in(part, name)
        assert stopped and stopped.code == 0 and stopped.saved == saved and last() == there, name
        if name == "heldout_batches":
            assert rows(cut)[-1]["heldout_loss"] is None
    train.train(config(tiny_folder, cut))
    assert rows(cut) == rows(whole) and len(rows(whole)) == 12
    for path in sorted((whole / "hf").iterdir()):
        assert Path(cut, "hf", path.name).read_bytes() == path.read_bytes(), path.name
    assert not list(cut.glob(".hf-*"))
