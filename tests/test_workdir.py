"""A run's folder: the space that its checkpoints will take."""

import shutil
import threading

import jax
import numpy as np
import pytest

from medsjax import workdir
from medsjax.errors import UserError

STATE = {"a": jax.ShapeDtypeStruct((3,), np.float32)}


def test_too_small_a_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 35))
    with pytest.raises(UserError, match=r"2 checkpoints and one being written take .* GB are free"):
        workdir.check_space(tmp_path, STATE, keep=2)
    (tmp_path / "checkpoints/4/state").mkdir(parents=True)
    (tmp_path / "checkpoints/4/state/part").write_bytes(bytes(12))
    workdir.check_space(tmp_path, STATE, keep=2)


def test_free_space_is_counted_while_files_are_deleted(tmp_path):
    """Orbax tidies up in the background what a killed save left."""
    over = threading.Event()

    def churn():
        while not over.is_set():
            parts = [tmp_path / "checkpoints" / f"4.tmp{i}" for i in range(20)]
            for part in parts:
                (part / "meta").mkdir(parents=True)
                (part / "meta" / "part").write_bytes(b"0")
            for part in parts:
                shutil.rmtree(part)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            workdir.check_space(tmp_path, STATE, keep=2)
    finally:
        over.set()
        thread.join()
