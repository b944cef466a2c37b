"""SIGTERM, as a machine that is taken back gets it: training saves its step and ends, exit code 0.

Python answers a signal only between two bytecodes of the main thread, and a compilation or a wait
for other hosts may keep that for minutes. So a thread reads the signal from a pipe and settles with
the other hosts what to do: within the training loop they end after the same step, or batch of a
held-out pass, and the step is saved; outside there is nothing to save, and they end at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

SWALLOW = ("_xla_gc_callback", "__del__")  # Python drops what is raised in these
GRACE = 10  # seconds for the main thread to end of its own accord, where nothing is to be saved


class Stopped(SystemExit):
    """The end of a run by SIGTERM: exit code 0. `saved` is the step it ended after, if in one."""

    def __init__(self, saved: int | None = None):
        super().__init__(0)
        self.saved = saved


class Sigterm:
    """What SIGTERM, sent to any host of a run, means to this one."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.lock = threading.Lock()  # held while the hosts settle it: no step begins meanwhile
        self.step = 0  # the one begun last
        self.at: int | None = None  # steps and held-out batches begun in the loop; None outside it
        self.last: int | None = None  # which of them is to be the last
        self.leaving = False  # nothing is to be saved
        self.known, self.told = threading.Lock(), threading.Lock()  # each taken once, for good
        self.out = False  # of what `caught` holds

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Take the signal; after the `with`, where the process ends, it is ignored."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.catch()
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        try:
            yield
        finally:
            self.out = True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def catch(self) -> None:
        """Take the signal, again where others have taken it."""
        signal.signal(signal.SIGTERM, self._raise_if_leaving)

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """Around the training loop and its last save; raises Stopped where SIGTERM ended it."""
        yield
        self.hosts.gather("trained", None)
        with self.lock:
            self.at = None
        if self.last is not None:
            raise Stopped(self.step)

    def reached(self, step: int) -> bool:
        """Called when `step`, or a held-out batch after it, has begun; whether to end and save it.

        All hosts begin the same ones in the same order, so that a count of them is a place.
        """
        with self.lock:
            self.step, self.at = step, (self.at or 0) + 1
            return self.last is not None and self.at >= self.last

    def asked(self) -> None:
        """Some host got SIGTERM: all tell where they are."""
        if self.known.acquire(blocking=False):
            self.hosts.spread({"sigterm": True})
            self.lock.acquire()
            if self.hosts.together:
                self.hosts.give("sigterm", self.at)
            else:
                self.settled([None])

    def settled(self, places: list[int | None]) -> None:
        """Where all hosts are: one place after the foremost all end, or now."""
        self.leaving = None in places
        if not self.leaving:
            self.last = max(places) + 1
        self.lock.release()
        if self.leaving:
            threading.Thread(target=self._insist, daemon=True).start()

    def tell(self, stopped: Stopped) -> None:
        """The one line."""
        if self.told.acquire(blocking=False):
            saved = "" if stopped.saved is None else f"; step {stopped.saved} is saved"
            self.hosts.say(f"stopped by SIGTERM{saved}; the same command resumes")

    def _watch(self, reader: int) -> None:
        while True:
            if signal.SIGTERM in os.read(reader, 16):
                self.asked()

    def _raise_if_leaving(self, _, frame) -> None:
        """In the main thread, by the signal itself or by `_insist`: raise Stopped, once."""
        if not self.leaving or self.out or isinstance(sys.exc_info()[1], Stopped):
            return
        while frame and frame.f_code.co_name not in SWALLOW:
            frame = frame.f_back
        if frame is None:
            raise Stopped()

    def _insist(self) -> None:
        """Interrupt the main thread until it ends; where it does not, end for it."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and not self.out:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            time.sleep(0.1)
        time.sleep(max(deadline - time.monotonic(), 0))
        self.tell(Stopped())
        self.hosts.end(0)
