"""How long each example is, measured once, on all cores; a killed measuring goes on where it was.

While it lasts, `lengths.part` collects chunks of examples as they are done, each with a checksum;
at the end `lengths.npy` appears whole beside it, and the parts go. One process of a host measures,
the others wait for it.
"""

import errno
import fcntl
import multiprocessing
import os
import pickle
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from medsjax.errors import UserError

CHUNK = 64  # examples measured and written down at a time
# HF tokenizers free the interpreter lock, but reading and rendering do not, so threads keep a few
# cores busy at most. Processes keep all, and start in seconds; with fewer examples threads are done
# by then.
PROCESSES_FROM = 50_000
MAX_THREADS, MAX_PROCESSES = 8, 64  # a process takes a few hundred MB


def measure_all(source: Any, width: int, folder: Path, desc: str) -> np.ndarray:
    """int32 [examples, width]: of each example its tokens and, where `width` > 1, its losses.

    It is kept in `folder`/lengths.npy; the folder must be this source's own.
    """
    path, part = folder / "lengths.npy", folder / "lengths.part"
    if not path.exists():
        with _writing(part):
            folder.mkdir(parents=True, exist_ok=True)
            part.touch()
        with open(part, "a+b", buffering=0) as file:
            _lock(file, desc)
            if not path.exists():  # who waited finds it done
                _save(path, _complete(file, source, width, desc))
            part.unlink(missing_ok=True)
    found = np.load(path)
    if found.shape != (len(source), width):
        raise UserError(
            f"{path}: measures {len(found)} examples, the data has {len(source)}; delete it"
        )
    return found


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room and run again, "
            "it goes on from there"
        ) from None


def _lock(file: BinaryIO, desc: str) -> None:
    """Be the only process that measures; a lock ends with its process, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tqdm.write(f"{desc}: another process does it already; waiting for it ({file.name})")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: each measures for itself
        pass


def _save(path: Path, table: np.ndarray) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with _writing(path):
        with open(unfinished, "wb") as file:
            np.save(file, table)
        os.replace(unfinished, path)


def _complete(file: BinaryIO, source: Any, width: int, desc: str) -> np.ndarray:
    """Measure what `file` does not hold yet, writing down each chunk there."""
    n = len(source)
    table = np.zeros((n, width), np.int32)
    record = np.dtype(
        [("n", "<i8"), ("chunk", "<i8"), ("table", "<i4", (CHUNK, width)), ("sum", "<u4")]
    )
    done = _resume(file, record, table)
    todo = np.setdiff1d(np.arange(-(-n // CHUNK)), done).tolist()
    kept = min(len(done) * CHUNK, n)
    with (
        tqdm(total=n, initial=kept, desc=desc, unit="example", unit_scale=True) as bar,
        closing(_measured(source, width, todo, Path(file.name).parent)) as measured,
    ):
        for chunk, rows in zip(todo, measured, strict=True):
            table[chunk * CHUNK :][: len(rows)] = rows
            entry = np.zeros(1, record)
            entry["n"], entry["chunk"], entry["table"][0, : len(rows)] = n, chunk, rows
            entry["sum"] = _checksum(entry.tobytes())
            with _writing(Path(file.name)):
                if file.write(entry.tobytes()) < record.itemsize:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            bar.update(len(rows))
    return table


def _resume(file: BinaryIO, record: np.dtype, table: np.ndarray) -> list[int]:
    """Fill `table` with what stands in `file`; the chunks that are done."""
    file.seek(0)
    content = file.read()
    whole = len(content) // record.itemsize * record.itemsize
    file.truncate(whole)  # a kill may have cut the last entry short; the next goes in its place
    done = set()
    for entry in np.frombuffer(content[:whole], record):
        if entry["sum"] == _checksum(entry.tobytes()) and entry["n"] == len(table):
            chunk = int(entry["chunk"])
            rows = table[chunk * CHUNK :][:CHUNK]
            rows[:] = entry["table"][: len(rows)]
            done.add(chunk)
    return sorted(done)


def _checksum(entry: bytes) -> int:
    return zlib.crc32(entry[:-4])


def _measured(
    source: Any, width: int, chunks: Sequence[int], folder: Path
) -> Iterator[list[tuple[int, ...]]]:
    """What `_measure` says of each chunk, in their order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pickled = folder / "source.pickle"  # through a file: a pipe would start one after the other
    try:
        if cores == 1 or len(chunks) * CHUNK < PROCESSES_FROM or not _pickle(source, pickled):
            with ThreadPoolExecutor(min(cores, MAX_THREADS)) as pool:
                yield from pool.map(partial(_measure, source, width), chunks)
            return
        workers, spawn = min(cores, MAX_PROCESSES), multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, _start_worker, (pickled, width)) as pool:
            yield from pool.map(_measure_in_worker, chunks)
    except BrokenProcessPool:
        raise UserError(
            f"{folder}: a measuring process died, perhaps for want of memory; run again, "
            "it goes on from there"
        ) from None
    finally:
        pickled.unlink(missing_ok=True)  # a killed run's too


def _pickle(source: Any, path: Path) -> bool:
    """Whether `source` could be written to `path`; one whose class is a config file's cannot."""
    try:
        content = pickle.dumps(source)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    with _writing(path):
        path.write_bytes(content)
    return True


def _measure(source: Any, width: int, chunk: int) -> list[tuple[int, ...]]:
    examples = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(source)))
    if width > 1:
        return [source.measure(i) for i in examples]
    return [(len(source[i][0]),) for i in examples]


_worker: tuple[Any, int]  # in a worker: its source and width


def _start_worker(pickled: Path, width: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(2))  # a shutdown is the parent's, first
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker = pickle.loads(pickled.read_bytes()), width


def end_with_parent() -> None:
    """In a thread of a worker process, which would wait forever for a killed parent."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _measure_in_worker(chunk: int) -> list[tuple[int, ...]]:
    return _measure(*_worker, chunk)
