"""Several hosts as one run: how they find each other, what must be equal on all, how they end.

JAX joins the devices, but where a host is missing or fails it aborts the others with a stack trace.
So a plain connection from each host to host 0 comes first and stays: over it they compare what must
be equal, and what ends one ends all, in one line. Lines of JSON go over it, never arrays or text of
examples. A run on one host is the same with nobody to ask.
"""

import contextlib
import hashlib
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import jax

from medsjax import config, meeting
from medsjax.errors import OnAll, UserError, run_main
from medsjax.sigterm import Sigterm, Stopped

PER_HOST = ("model", "tokenizer", "workdir", "run.workers")  # the first three compare by content
LAST_WORDS = 10  # seconds that host 0 waits for the others to end before it
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


class Hosts:
    """This host among the hosts of a run; alone, it asks itself."""

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self.names = [f"host {i}" for i in range(count)]
        self.links: dict[int, socket.socket] = {}  # host 0: to all others; the others: to host 0
        self.answers: queue.SimpleQueue = queue.SimpleQueue()
        self.parts: dict[str, dict[int, Any]] = {}  # what host 0 has been given, until it is whole
        self.together = count == 1  # all have met
        self.over = False  # from here on a host that is gone has only ended
        self.talk, self.ending = threading.Lock(), threading.Lock()
        self.sigterm = Sigterm(self)

    def say(self, text: str) -> None:
        """Print on host 0 alone."""
        if self.index == 0:
            print(text, flush=True)

    def gather(self, what: str, value: Any, limit: float | None = None) -> list:
        """Every host's `value` (JSON), by host; all must ask for the same, in the same order.

        Raises queue.Empty after `limit` seconds.
        """
        self.give(what, value)
        found, values = self.answers.get(timeout=limit)
        assert found == what, (found, what)
        return values

    def from_first(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` gives on host 0."""
        return self.gather(what, make() if self.index == 0 else None)[0]

    def agree(self, what: str, values: dict[str, Any]) -> None:
        """Raise on every host, with the same line, where a value is not equal on all."""
        found = self.gather(f"agree {what}", {key: str(value) for key, value in values.items()})
        for key in dict.fromkeys(key for host in found for key in host):
            seen = [host.get(key, "not set") for host in found]
            usual = max(seen, key=seen.count)
            for host, value in enumerate(seen):
                if value != usual:
                    like = self.names[seen.index(usual)]
                    raise OnAll(
                        f"{self.names[host]}: {key} is {_short(value)}, on {like} it is "
                        f"{_short(usual)}; every host must run the same command on the same files"
                    )

    def give(self, what: str, value: Any) -> None:
        """This host's part of a `gather`, whose answer comes by `answers` or to `sigterm`."""
        if self.index:
            self._send(0, {"give": what, "value": value})
        else:
            self._collect(0, what, value)

    def spread(self, message: dict) -> None:
        """Send to every host this one is linked with."""
        for host in list(self.links):
            self._send(host, message)

    def fail(self, error: BaseException) -> None:
        """End this process as `run_main` would, and every other host with a line that says why."""

        def again():
            raise error

        if self.count > 1 and not isinstance(error, UserError):
            time.sleep(2)  # JAX fails where another host is gone: that line is the one to show
        with self.ending:  # of several threads that end this process, one has the word
            line = f"{self.names[self.index]}: {error}"
            if not isinstance(error, UserError):
                line = f"{self.names[self.index]}: {type(error).__name__}; its own output says more"
            self.spread({"failed": str(error) if isinstance(error, OnAll) else line})
            try:
                run_main(again)
            except SystemExit as stop:
                self._exit(stop.code)
            except BaseException:
                traceback.print_exc()
                self._exit(1)

    def stop(self, error: BaseException) -> None:
        """End by SIGTERM: with the others where a step was saved, else at once."""
        stopped = error if isinstance(error, Stopped) else Stopped()
        if not self.sigterm.leaving:
            self.gather("end", None)
        self.sigterm.tell(stopped)
        if self.count > 1:
            self.end(0)
        raise stopped

    def end(self, code: int, line: str = "") -> None:
        """End this process now; `line` goes to the error output."""
        with self.ending:
            if line:
                print(f"error: {' '.join(line.split())}", file=sys.stderr)
            self._exit(code)

    def _exit(self, code: int) -> None:
        """Without Python's exit, where JAX would wait for hosts that are gone."""
        sys.stdout.flush()
        sys.stderr.flush()
        deadline = time.monotonic() + LAST_WORDS
        while self.index == 0 and self.links and time.monotonic() < deadline:
            time.sleep(0.02)  # JAX aborts the others when its coordinator, here, goes before them
        os._exit(code)

    def meet(self, place: meeting.Place) -> None:
        """Wait until all hosts are there, and learn their names."""
        try:
            (meeting.call if self.index else meeting.answer)(place, self.links)
        finally:  # those who came learn why, if it fails
            for host, link in list(self.links.items()):
                threading.Thread(target=self._read, args=(host, link), daemon=True).start()
        limit = place.limit + LAST_WORDS  # host 0 may wait as long for others
        try:
            names = self.gather("names", socket.gethostname(), limit)
        except queue.Empty:
            raise UserError(
                f"no answer over {place.address}:{place.port} after {limit:.0f} s; end what else "
                "runs there, and start the same command on every host"
            ) from None
        self.names = [f"host {i} ({name})" for i, name in enumerate(names)]
        self.together = True

    def _read(self, host: int, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._heard(host, json.loads(line))
        self.links.pop(host, None)
        if not self.over:
            line = f"{self.names[host]} is gone; see its output; the same command resumes"
            self.spread({"failed": line})
            self.end(2, line)

    def _heard(self, host: int, message: dict) -> None:
        if "give" in message:
            self._collect(host, message["give"], message["value"])
        elif "all" in message:
            self._settle(message["all"], message["values"])
        elif "sigterm" in message:
            self.sigterm.asked()
        elif "failed" in message:
            self.over = True
            self.links.pop(host)  # it ends by itself
            self.spread(message)
            self.end(2, message["failed"])

    def _collect(self, host: int, what: str, value: Any) -> None:
        with self.talk:
            parts = self.parts.setdefault(what, {})
            parts[host] = value
            whole = self.parts.pop(what) if len(parts) == self.count else None
        if whole:
            self._settle(what, [whole[i] for i in range(self.count)])

    def _settle(self, what: str, values: list) -> None:
        """An answer is there; whether hosts end on it is known before the first of them is gone."""
        differ = what.startswith("agree") and any(value != values[0] for value in values)
        leave = what == "sigterm" and None in values
        self.over = self.over or what == "end" or differ or leave
        if self.index == 0:
            self.spread({"all": what, "values": values})
        if what == "sigterm":
            self.sigterm.settled(values)
        else:
            self.answers.put((what, values))

    def _send(self, host: int, message: dict) -> None:
        with self.talk, contextlib.suppress(OSError, KeyError):  # who reads it notices who is gone
            self.links[host].sendall(json.dumps(message).encode() + b"\n")


@contextlib.contextmanager
def joined(cfg: config.Config) -> Iterator[Hosts]:
    """The hosts of this run, with JAX's devices joined; SIGTERM and errors end all of them.

    Before any use of JAX's devices. Raises UserError, on every host, for a host that is missing
    after MEDSJAX_HOSTS_TIMEOUT seconds (300) or that differs from the others.
    """
    place = meeting.find()
    us = Hosts(place.index, place.count) if place else Hosts()
    try:
        with us.sigterm.caught():
            if place:
                us.meet(place)
                us.agree("facts", facts(cfg))
                address = f"{place.address}:{place.port}"
                how = {"cluster_detection_method": "deactivate"}  # they have met already
                jax.distributed.initialize(address, place.count, place.index, **how)
                us.sigterm.catch()  # JAX has taken the signal for itself
                kind = jax.local_devices()[0].device_kind
                us.agree("devices", {"devices": f"{jax.local_device_count()} x {kind}"})
            if jax.process_count() != us.count:
                raise UserError(
                    f"JAX is one of {jax.process_count()} hosts, but {us.count} met here; set "
                    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID on each"
                )
            yield us
            us.gather("end", None)
    except BaseException as error:
        if us.sigterm.leaving or isinstance(error, Stopped):  # a child may die of the signal first
            us.stop(error)
        elif us.count > 1:
            us.fail(error)
        raise


def facts(cfg: config.Config) -> dict[str, str]:
    """What must be equal on all hosts before JAX joins them: versions, this package, the config."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    settings = {k: v for k, v in _flat(config.to_dict(cfg)).items() if k not in PER_HOST}
    return {
        "python": python_version(),
        **{name: version(name) for name in VERSIONS},
        "medsjax": f"files with sha256 {digest.hexdigest()[:12]}",
        **{f"config.{key}": json.dumps(value) for key, value in settings.items()},
    }


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found = {}
    for key, value in values.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{key}": value} if nested is None else nested
    return found


def _short(value: str) -> str:
    digest = hashlib.sha256(value.encode()).hexdigest()[:12]
    return value if len(value) <= 80 else f"{value[:40]}… (sha256 {digest})"
