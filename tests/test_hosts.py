"""Several hosts, each a process: what differs, is missing or fails ends all of them in one line."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from medsjax import meeting
from medsjax.errors import UserError, run_main
from medsjax.hosts import Hosts
from medsjax.sharding import host_rows
from medsjax.sigterm import Stopped

FORK = multiprocessing.get_context("forkserver")  # it has done the imports, and started nothing
FORK.set_forkserver_preload([__name__])
LIMIT = 2  # seconds that hosts wait for each other


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def run_host(out: Path, work, place: meeting.Place, args: tuple) -> None:
    """In a process of its own: `work(hosts, *args)` among the others, its output in a file."""
    handle = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1), os.dup2(handle, 2)

    def main():
        us = Hosts(place.index, place.count)
        try:
            with us.sigterm.caught():
                us.meet(place)
                work(us, *args)
                us.gather("end", None)
        except BaseException as error:
            us.stop(error) if isinstance(error, Stopped) else us.fail(error)

    run_main(main)


class Run:
    """Hosts at work. `counts`: how many each believes in; `missing`: who does not start."""

    def __init__(
        self, folder: Path, work, args, *, counts=(3, 3, 3), numbers=(0, 1, 2), missing=()
    ):
        port = free_port()
        self.outs = [folder / f"out{i}" for i in range(3)]
        self.places = [
            meeting.Place("localhost", port, counts[i], numbers[i], LIMIT) for i in range(3)
        ]
        self.processes = [
            FORK.Process(target=run_host, args=(self.outs[i], work, self.places[i], args[i]))
            for i in range(3)
        ]
        for i in {0, 1, 2} - set(missing):
            self.start(i)

    def start(self, i: int) -> None:
        self.processes[i].start()

    def ended(self) -> tuple[list[int | None], list[str]]:
        """Exit codes and all that was printed, once all have ended."""
        started = [its for its in self.processes if its.pid]
        for its in started:
            its.join(20)
        codes = [its.exitcode if its.pid else None for its in self.processes]
        for its in started:
            its.kill()
        return codes, [out.read_text() if out.exists() else "" for out in self.outs]


def compare(us: Hosts, values: dict) -> None:
    us.agree("facts", values)
    assert us.gather("where", us.index) == [0, 1, 2]
    assert us.from_first("what", lambda: {"a": [us.index]}) == {"a": [0]}
    us.say("all equal")


def test_hosts_that_agree_go_on(tmp_path):
    codes, outs = Run(tmp_path, compare, [({"jax": "1", "seed": 0},)] * 3).ended()
    assert codes == [0, 0, 0] and outs == ["all equal\n", "", ""]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_host_that_differs_is_named_on_every_host(tmp_path, odd):
    values = [({"jax": "1.2", "config.seed": 7 if i == odd else 3},) for i in range(3)]
    codes, outs = Run(tmp_path, compare, values).ended()
    name = socket.gethostname()
    line = (
        f"error: host {odd} ({name}): config.seed is 7, on host {int(odd == 0)} ({name}) it is 3; "
        "every host must run the same command on the same files\n"
    )
    assert codes == [2, 2, 2] and outs == [line] * 3


def test_a_value_that_one_host_lacks_is_a_difference(tmp_path):
    values = [({"a": 1},), ({"a": 1, "b": "x" * 200},), ({"a": 1},)]
    codes, outs = Run(tmp_path, compare, values).ended()
    assert codes == [2, 2, 2]
    assert all(f"b is {'x' * 40}… (sha256 " in out and "it is not set" in out for out in outs)


@pytest.mark.parametrize("missing", [(0,), (1,), (1, 2)])
def test_a_missing_host_is_named_in_time(tmp_path, missing):
    start = time.monotonic()
    codes, outs = Run(tmp_path, compare, [({},)] * 3, missing=missing).ended()
    assert time.monotonic() - start < LIMIT + 5
    who = ", ".join(f"host {i}" for i in missing)
    for i in {0, 1, 2} - set(missing):
        assert codes[i] == 2 and outs[i].count("\n") == 1
        assert f"error: {who} " in outs[i] and f"missing after {LIMIT} s" in outs[i]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"numbers": (0, 1, 1)}, "host 1 of 3 .* came to a run of 3 hosts that has a host of that"),
        ({"counts": (3, 3, 4)}, "host 2 of 4 .* came to a run of 3 hosts; give each"),
    ],
)
def test_a_host_with_a_wrong_number_ends_the_run(tmp_path, wrong, line):
    codes, outs = Run(tmp_path, compare, [({},)] * 3, **wrong).ended()
    late = [i for i in (1, 2) if "missing" in outs[i] or "gone" in outs[i]]  # came after the end
    assert codes == [2, 2, 2] and len(late) < 2
    assert all(re.match(f"error: {line}", outs[i]) for i in {0, 1, 2} - set(late))


def test_strangers_at_the_port_are_sent_away(tmp_path):
    run = Run(tmp_path, compare, [({},)] * 3, missing=(2,))
    place = run.places[0]
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b""):
        for _ in range(50):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((place.address, place.port)) as s,
            ):
                s.sendall(words)
                break
            time.sleep(0.02)
    run.start(2)
    assert run.ended()[0] == [0, 0, 0]


def break_down(us: Hosts, host: int, how: str) -> None:
    if us.index == host:
        if how == "error":
            raise UserError("data/x: no such folder")
        if how == "fault":
            raise ZeroDivisionError
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1 * us.index)
    us.gather("never", None)


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize("how", ["error", "fault", "kill"])
def test_what_ends_one_host_ends_all(tmp_path, host, how):
    codes, outs = Run(tmp_path, break_down, [(host, how)] * 3).ended()
    code = {"error": 2, "fault": 1, "kill": -9}[how]
    assert codes == [code if i == host else 2 for i in range(3)]
    name = f"host {host} ({socket.gethostname()})"
    says = {"error": ": data/x: no such folder", "fault": ": ZeroDiv", "kill": " is gone; "}[how]
    assert all(outs[i].startswith(f"error: {name}{says}") for i in {0, 1, 2} - {host})
    assert all(outs[i].count("\n") == 1 for i in {0, 1, 2} - {host})
    if how == "error":
        assert outs[host] == "error: data/x: no such folder\n"


def walk(us: Hosts, folder: Path, stuck: bool) -> None:
    """A training loop of 400 steps, as fast as the slowest host where steps are collective."""
    with us.sigterm.steps():
        for step in range(1, 401):
            time.sleep(0.01 * (1 + us.index))
            (folder / f"at{us.index}").write_text(str(step))
            if us.sigterm.reached(step):
                break
    while stuck:
        time.sleep(0.01)


@pytest.mark.parametrize("host", [0, 2])
def test_sigterm_to_one_host_ends_all_after_the_same_step(tmp_path, host):
    run = Run(tmp_path, walk, [(tmp_path, False)] * 3)
    until(lambda: all((tmp_path / f"at{i}").is_file() for i in range(3)))
    os.kill(run.processes[host].pid, signal.SIGTERM)
    os.kill(run.processes[host].pid, signal.SIGTERM)
    codes, outs = run.ended()
    steps = {(tmp_path / f"at{i}").read_text() for i in range(3)}
    assert codes == [0, 0, 0] and len(steps) == 1 and steps != {"400"}
    saved = f"stopped by SIGTERM; step {steps.pop()} is saved; the same command resumes\n"
    assert outs == [saved, "", ""]


def load(us: Hosts, folder: Path, how: str) -> None:
    """What goes before the loop; `swallowed`: where Python drops what a signal's handler raises."""
    (folder / f"at{us.index}").write_text("")
    try:
        if how == "waits" and us.index:
            us.gather("never", None)
        while True:
            _ = Slow() if how == "swallowed" else None
            time.sleep(0.02)
    finally:
        (folder / f"left{us.index}").write_text("")


class Slow:
    def __del__(self):
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["works", "waits", "swallowed"])
def test_sigterm_outside_the_loop_ends_all_at_once_and_cleans_up(tmp_path, how):
    run = Run(tmp_path, load, [(tmp_path, how)] * 3)
    until(lambda: all((tmp_path / f"at{i}").is_file() for i in range(3)))
    start = time.monotonic()
    os.kill(run.processes[1].pid, signal.SIGTERM)
    codes, outs = run.ended()
    assert codes == [0, 0, 0] and time.monotonic() - start < 8
    assert outs == ["stopped by SIGTERM; the same command resumes\n", "", ""]
    assert all((tmp_path / f"left{i}").exists() for i in range(3))


def test_a_host_finds_its_place(monkeypatch):
    keys = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

    def find(*values, **more):
        for key in (*keys, "JAX_COORDINATOR_PORT", "MEDSJAX_HOSTS_TIMEOUT"):
            monkeypatch.delenv(key, raising=False)
        for key, value in {**dict(zip(keys, values, strict=False)), **more}.items():
            monkeypatch.setenv(key, value)
        return meeting.find()

    assert find() is None and find("a", "1", "0") is None
    assert find("10.0.0.1:99", "4", "3") == ("10.0.0.1", 99, 4, 3, 300)
    assert find("a", "2", "0", MEDSJAX_HOSTS_TIMEOUT="9") == ("a", 8476, 2, 0, 9)
    assert find("[::1]:7", "2", "1", JAX_COORDINATOR_PORT="8") == ("[::1]", 7, 2, 1, 300)
    for values, line in {
        ("a", "2"): "JAX_PROCESS_ID is not set",
        ("a", "2", "2"): "JAX_PROCESS_ID=2: give 0 to 1",
        ("a:b", "2", "1"): "its port is 'b'",
        ("a", "two", "1"): "JAX_NUM_PROCESSES is 'two'",
    }.items():
        with pytest.raises(UserError, match=line):
            find(*values)


def test_a_host_of_a_tpu_slice_finds_its_place(monkeypatch):
    tpu = pytest.importorskip("jax._src.clusters.cloud_tpu_cluster")
    monkeypatch.setattr(tpu, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,10.0.0.2,10.0.0.3")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    assert meeting.find() is None  # JAX_PLATFORMS=cpu: no TPU is used
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    try:
        assert meeting.find() == ("127.0.0.1", 8476, 3, 2, 300)
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1")
        assert meeting.find() is None
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "127.0.0.1,10.0.0.2")
        monkeypatch.setattr(tpu, "GkeTpuCluster", None)
        with pytest.raises(UserError, match="set JAX_COORDINATOR_ADDRESS"):
            meeting.find()
    finally:
        jax.config.update("jax_platforms", platforms)


@pytest.mark.parametrize(
    ("devices", "parts"),
    [
        ([[0], [0], [1], [1]], [0, 1]),
        ([[0], [1], [0], [1]], [0, 1]),  # rows of a host need not be neighbours
        ([[0, 0], [1, 1]], [0, 1]),
        ([[0, 1]], [0, 0]),  # a tensor group over two hosts: both feed the same rows
        ([[0, 1], [2, 3]], [0, 0, 1, 1]),
        ([[0, 0, 1, 1, 2, 2]], [0, 0, 0]),
    ],
)
def test_hosts_that_share_rows_feed_the_same(devices, parts, monkeypatch):
    for host, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        found = host_rows(mesh_of(devices))
        assert found == {"process_index": part, "process_count": max(parts) + 1}


def test_rows_that_hosts_share_in_part_are_refused():
    with pytest.raises(UserError, match="splits rows unevenly over 2 hosts"):
        host_rows(mesh_of([[0, 0], [0, 1], [1, 1]]))


def mesh_of(devices: list[list[int]]):
    """A mesh whose devices know only their host."""
    grid = np.array([[SimpleNamespace(process_index=i) for i in row] for row in devices])
    return SimpleNamespace(devices=grid, shape={"fsdp": len(grid), "tensor": grid.shape[1]})


def until(there) -> None:
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
