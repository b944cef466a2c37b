"""Several hosts, each a process: what differs, is missing or fails ends all of them in one line."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import re
import signal
import socket
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medsjax import hosts, meeting, workdir
from medsjax.config import Config
from medsjax.errors import UserError, run_main
from medsjax.hosts import Hosts
from medsjax.input_pipeline import put
from medsjax.sharding import batch_sharding, host_rows, make_mesh
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


def break_down(us: Hosts, host: int, how: str, dying: Path) -> None:
    us.gather("names are known", None)
    if us.index == host:
        if how == "error":
            raise UserError("data/x: no such folder")
        if how == "fault":
            raise ZeroDivisionError
        dying.touch()
        time.sleep(0.3 if how == "kill, seen by JAX" else 0)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "kill, seen by JAX":  # whose collective fails before the connection is seen closed
        until(dying.exists)
        raise RuntimeError("Gloo all-reduce failed: Connection reset by peer")
    time.sleep(0.1 * us.index)
    us.gather("never", None)


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize("how", ["error", "fault", "kill", "kill, seen by JAX"])
def test_what_ends_one_host_ends_all(tmp_path, host, how):
    codes, outs = Run(tmp_path, break_down, [(host, how, tmp_path / "dying")] * 3).ended()
    how = how.partition(",")[0]
    code = {"error": 2, "fault": 1, "kill": -9}[how]
    assert codes == [code if i == host else 2 for i in range(3)]
    name = f"host {host} ({socket.gethostname()})"
    says = {"error": ": data/x: no such folder", "fault": ": ZeroDiv", "kill": " is gone; "}[how]
    assert all(outs[i].startswith(f"error: {name}{says}") for i in {0, 1, 2} - {host})
    assert all(outs[i].count("\n") == 1 for i in {0, 1, 2} - {host})
    if how == "error":
        assert outs[host] == "error: data/x: no such folder\n"


def test_who_takes_connections_but_is_not_host_0_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hosts, "LAST_WORDS", 0.2)
    with socket.create_server(("localhost", 0)) as silent:
        us, port = Hosts(1, 2), silent.getsockname()[1]
        us.over = True  # the connection's end, after the test, is not the end of this process
        with pytest.raises(
            UserError, match=rf"no answer over localhost:{port} after 0 s; end what"
        ):
            us.meet(meeting.Place("localhost", port, 2, 1, 0.2))


def test_devices_of_hosts_that_did_not_meet_are_refused(monkeypatch):
    """A worker of a slice that took itself for the only one would train a run of its own."""
    monkeypatch.setattr(meeting, "find", lambda: None)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    config = Config(model="m", data=Dataset())
    with (
        pytest.raises(UserError, match="JAX is one of 4 hosts, but 1 met here"),
        hosts.joined(config),
    ):
        raise AssertionError("went on")


def walk(us: Hosts, folder: Path, stuck: bool) -> None:
    """A training loop of 133 steps with two held-out batches after each, some hosts faster."""
    with us.sigterm.steps():
        for step, part in itertools.product(range(1, 134), range(3)):
            time.sleep(0.01 * (1 + us.index))
            (folder / f"at{us.index}").write_text(f"{step} {part}")
            if us.sigterm.reached(step):
                break
    while stuck:
        time.sleep(0.01)


@pytest.mark.parametrize("host", [0, 2])
def test_sigterm_to_one_host_ends_all_at_the_same_place(tmp_path, host):
    run = Run(tmp_path, walk, [(tmp_path, False)] * 3)
    until(lambda: all((tmp_path / f"at{i}").is_file() for i in range(3)))
    os.kill(run.processes[host].pid, signal.SIGTERM)
    os.kill(run.processes[host].pid, signal.SIGTERM)
    codes, outs = run.ended()
    places = {(tmp_path / f"at{i}").read_text() for i in range(3)}
    assert codes == [0, 0, 0] and len(places) == 1 and places != {"133 2"}
    step = places.pop().split()[0]
    saved = f"stopped by SIGTERM; step {step} is saved; the same command resumes\n"
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


def share(us: Hosts, folder: Path) -> None:
    workdir.SEEN_WITHIN = 0.3
    folder.mkdir(exist_ok=True)
    workdir.check_shared(folder, us)


def test_a_workdir_that_one_host_does_not_see_is_refused(tmp_path):
    folders = [(tmp_path / name,) for name in ("run", "run", "mine")]
    codes, outs = Run(tmp_path, share, folders).ended()
    line = f"error: host 2 ({socket.gethostname()}): does not see the --config.workdir of host 0; "
    assert codes == [2, 2, 2] and all(out.startswith(line) for out in outs)
    assert Run(tmp_path / "run", share, folders[:1] * 3).ended()[0] == [0, 0, 0]


def add_up(out: Path, env: dict[str, str]) -> None:
    """In a process of its own: JAX's devices of both hosts, joined as training joins them."""
    handle = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1), os.dup2(handle, 2)
    os.environ.update(env)
    model = Config(model="m", data=Dataset())
    with hosts.joined(model) as us:
        us.say(f"{jax.device_count()} devices")
        for shape in ((4, 1), (2, 2), (1, 4)):
            mesh = make_mesh(*shape)
            part = host_rows(mesh)
            mine = np.split(np.arange(12).reshape(4, 3), part["process_count"])
            mine = {"tokens_BT": mine[part["process_index"]]}
            us.say(f"{int(jax.jit(jnp.sum)(put(mine, batch_sharding(mesh))['tokens_BT']))}")


@dataclasses.dataclass(frozen=True)
class Dataset:
    def open(self, *_):
        raise NotImplementedError


def test_the_devices_of_two_processes_are_one_mesh(tmp_path):
    env = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    outs = [tmp_path / f"out{i}" for i in range(2)]
    both = [
        FORK.Process(target=add_up, args=(out, {**env, "JAX_PROCESS_ID": str(i)}))
        for i, out in enumerate(outs)
    ]
    for its in both:
        its.start()
    for its in both:
        its.join(60)
        its.kill()
    assert [its.exitcode for its in both] == [0, 0], [out.read_text() for out in outs]
    assert "4 devices" in outs[0].read_text() and "devices" not in outs[1].read_text()
    assert len(re.findall("^66$", outs[0].read_text(), re.MULTILINE)) == 3


def until(there) -> None:
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
