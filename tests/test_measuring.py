"""Each example is measured once, whatever stops it; threads and processes measure the same."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medsjax import measuring
from medsjax.errors import UserError
from medsjax.measuring import CHUNK
from medsjax.packing import measure

N = 20 * CHUNK + 7
LENGTHS = np.random.default_rng(0).integers(1, 50, N).tolist()


class Source:
    fingerprint = "ab12"

    def __init__(self, lengths=LENGTHS):
        self.lengths, self.calls = lengths, Counter()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        self.calls[i] += 1
        n = self.lengths[i]
        return np.zeros(n, np.int32), np.ones(n, np.bool_)


class Stumbling(Source):
    """Fails at one example."""

    at = 12 * CHUNK + 3

    def __getitem__(self, i):
        if i == self.at:
            raise KeyError(i)
        return super().__getitem__(i)


class Named(Source):
    """Leaves the number of each process that reads it in the working folder."""

    def __getitem__(self, i):
        Path(f"pid-{os.getpid()}").touch()
        return super().__getitem__(i)


class Stuck(Named):
    """Comes to no end."""

    at = 8 * CHUNK

    def __getitem__(self, i):
        if i >= self.at:
            time.sleep(600)
        return super().__getitem__(i)


class Fatal(Source):
    """One process dies, the others live and have to be ended."""

    def __getitem__(self, i):
        return os._exit(1) if i == 0 else super().__getitem__(i)


def test_each_example_is_read_once_and_remembered(tmp_path):
    source = Source()
    for _ in range(2):
        lengths, lost = measure(source, tmp_path, "measure")
        assert lost == {} and lengths.dtype == np.int32 and lengths.tolist() == LENGTHS
    assert source.calls == Counter(range(N))
    assert os.listdir(tmp_path / "ab12") == ["lengths.npy"]


def test_examples_that_lost_something_are_counted(tmp_path):
    class Losing(Source):
        LOSSES = ("shots", "text")

        def measure(self, i: int) -> tuple[int, int, int]:
            return self.lengths[i], 2 * (i % 3 == 0), 0

    for _ in range(2):  # measured, then from the cache
        lengths, lost = measure(Losing([5, 3, 4, 9]), tmp_path, "measure")
        assert lengths.tolist() == [5, 3, 4, 9]
        assert lost == {"shots": 2, "text": 0}


def test_lengths_of_other_data_are_refused(tmp_path):
    measure(Source([3, 4]), tmp_path, "measure")
    with pytest.raises(UserError, match="measures 2 examples, the data has 3"):
        measure(Source([3, 4, 5]), tmp_path, "measure")


def test_after_an_error_only_the_rest_is_measured(tmp_path):
    with pytest.raises(KeyError):
        measure(Stumbling(), tmp_path, "measure")
    assert os.listdir(tmp_path / "ab12") == ["lengths.part"]
    again = Source()
    assert measure(again, tmp_path, "measure")[0].tolist() == LENGTHS
    first = Stumbling.at // CHUNK * CHUNK  # its chunk was the first not written down
    assert again.calls == Counter(range(first, N))


def test_a_torn_or_flipped_entry_alone_is_measured_again(tmp_path):
    with pytest.raises(KeyError):
        measure(Stumbling(), tmp_path, "measure")
    part = tmp_path / "ab12" / "lengths.part"
    content = bytearray(part.read_bytes())
    size = len(content) // (Stumbling.at // CHUNK)
    content[3 * size + 40] ^= 1
    part.write_bytes(content[:-5])  # of chunk 11, the last
    again = Source()
    assert measure(again, tmp_path, "measure")[0].tolist() == LENGTHS
    torn = [*range(3 * CHUNK, 4 * CHUNK), *range(11 * CHUNK, 12 * CHUNK)]
    assert again.calls == Counter([*torn, *range(12 * CHUNK, N)])


def test_what_was_measured_of_other_data_is_not_kept(tmp_path):
    with pytest.raises(KeyError):
        measure(Stumbling(), tmp_path, "measure")
    fewer = Source(LENGTHS[:-9])
    assert measure(fewer, tmp_path, "measure")[0].tolist() == LENGTHS[:-9]
    assert fewer.calls == Counter(range(N - 9))


def test_two_that_measure_at_once_share_the_work(tmp_path, capsys):
    source, found = Source(), []

    class Patient(Source):
        def __getitem__(self, i):
            time.sleep(1e-4)
            return source[i]

    def run():
        found.append(measure(Patient(), tmp_path, "measure")[0].tolist())

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found == [LENGTHS, LENGTHS] and source.calls == Counter(range(N))
    assert capsys.readouterr().out.count("another process does it already") == 1
    assert os.listdir(tmp_path / "ab12") == ["lengths.npy"]


@pytest.fixture
def processes(monkeypatch):
    """However small the source and the machine."""
    monkeypatch.setattr(measuring, "PROCESSES_FROM", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_processes_measure_the_same(tmp_path, processes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = Named()
    assert measure(source, tmp_path, "measure")[0].tolist() == LENGTHS
    assert not source.calls and 1 <= len(list(tmp_path.glob("pid-*"))) <= 2
    assert not (tmp_path / f"pid-{os.getpid()}").exists()
    assert os.listdir(tmp_path / "ab12") == ["lengths.npy"]


def test_a_source_that_cannot_be_pickled_is_measured_by_threads(tmp_path, processes):
    class Local(Source):
        pass

    source = Local()
    assert measure(source, tmp_path, "measure")[0].tolist() == LENGTHS
    assert source.calls == Counter(range(N))


def test_a_process_that_dies_is_told_in_one_line(tmp_path, processes):
    with pytest.raises(UserError, match="a measuring process died") as caught:
        measure(Fatal(), tmp_path, "measure")
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up_is_told_in_one_line(tmp_path):
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"lengths.part: cannot be written \(No space"):
            measure(Source(), tmp_path, "measure")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = Source()
    assert measure(again, tmp_path, "measure")[0].tolist() == LENGTHS
    assert again.calls == Counter(range(3 * CHUNK, N))  # three entries were under 1000 bytes


KILLED = """
from pathlib import Path
from medsjax import measuring
from medsjax.packing import measure
from tests.test_measuring import Stuck
import os
if __name__ == "__main__":
    measuring.PROCESSES_FROM = {processes_from}
    os.sched_getaffinity = lambda _: {{0, 1}}
    measure(Stuck(), "cache", "measure")
"""


@pytest.mark.parametrize("processes_from", [1, 10**9])
def test_after_a_kill_only_the_rest_is_measured(processes_from, tmp_path):
    """SIGKILL in threads and in processes; no process stays behind."""
    script = tmp_path / "measuring_script.py"
    script.write_text(KILLED.format(processes_from=processes_from))
    paths = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    run = subprocess.Popen([sys.executable, script], cwd=tmp_path, env=os.environ | paths)
    part = tmp_path / "cache" / "ab12" / "lengths.part"
    wait_until(lambda: part.exists() and part.stat().st_size == 8 * (20 + 4 * CHUNK))
    run.send_signal(signal.SIGKILL)
    run.wait()
    pids = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    assert pids and (processes_from == 1) == (run.pid not in pids)
    wait_until(lambda: not any(map(alive, pids)))
    again = Source()
    assert measure(again, tmp_path / "cache", "measure")[0].tolist() == LENGTHS
    assert again.calls == Counter(range(Stuck.at, N))
    assert os.listdir(part.parent) == ["lengths.npy"]


def wait_until(happened, seconds: float = 60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie has ended, and waits to be reaped
        return file.read().rpartition(")")[2].split()[0] != "Z"
