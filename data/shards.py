"""Task files become ArrayRecord files, several tasks at once, each in one pass.

A process reads one task as a stream and writes its records in the file's order to shards of its
own. It takes some 150 MB however large the file. Bad instances, where some are allowed, go to
`quarantine.jsonl`.
"""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import BinaryIO, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from data.built import Encoder, TaskInfo
from data.task_file import Bad, Instance, Scan, TaskFile, task_id
from medsjax.errors import UserError

SHARD = 200_000  # records in a file, at most
SHARD_BYTES = 256 << 20  # serialized, before compression
STEP = 500  # instances between two reports of progress
QUARANTINE = "quarantine.jsonl"
# A process starts in seconds, in which one alone writes this many bytes.
PROCESSES_FROM = 100 << 20


class Written(NamedTuple):
    info: TaskInfo  # start: 0
    shards: list[tuple[str, int]]  # file name and records, in order
    quarantine: str  # file name; "" where no instance was bad


Labels = tuple[str, tuple[str, ...], tuple[str, ...]]  # category, domains, languages


def write(files: Sequence[Path], split: str, folder: Path, max_bad: int) -> list[Written]:
    """Write all tasks into `folder`, under names of their own, and QUARANTINE.

    Raises `UserError` at the first broken file, or with more than `max_bad` bad instances in all.
    """
    sizes = {path: path.stat().st_size for path in files}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(cores, len(files))
    if sum(sizes.values()) < PROCESSES_FROM:
        workers = 1
    if workers > 1:  # the largest first, so that none is left alone at the end
        files = sorted(files, key=sizes.get, reverse=True)
    jobs = [(path, split, folder, max_bad) for path in files]
    done: list[Written] = []
    with tqdm(total=sum(sizes.values()), desc="build", unit="B", unit_scale=True, delay=2) as bar:
        for written in _in_processes(jobs, workers, bar) if workers > 1 else _here(jobs, bar):
            done.append(written)
            bad = sum(task.info.bad for task in done)
            if bad > max_bad:
                raise UserError(
                    f"{files[0].parent}: {bad} bad instances in {len(done)} of {len(files)} files,"
                    f" over the limit of {max_bad} for all; correct them or raise --max-bad"
                )
    place = {task_id(path): i for i, path in enumerate(sizes)}
    done.sort(key=lambda written: place[written.info.task])
    _join([folder / written.quarantine for written in done if written.quarantine], folder)
    return done


def _join(parts: Sequence[Path], folder: Path) -> None:
    if parts:
        with _private(folder / QUARANTINE) as whole:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, whole)
                part.unlink()


def _private(path: Path) -> BinaryIO:
    """A new file that only its owner may read: what stands in it may be a patient's."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


Job = tuple[Path, str, Path, int]  # file, split, folder, max_bad


def _here(jobs: Sequence[Job], bar: tqdm) -> Iterator[Written]:
    for job in jobs:
        yield write_task(*job, bar.update)


def _in_processes(jobs: Sequence[Job], workers: int, bar: tqdm) -> Iterator[Written]:
    """One process a core. An error in one ends all."""
    spawn = multiprocessing.get_context("spawn")
    progress, (stop, hold) = spawn.Value("q"), spawn.Pipe(duplex=False)
    try:
        with ProcessPoolExecutor(workers, spawn, _start_worker, (progress, stop)) as pool, hold:
            pending: set[Future] = {pool.submit(_write_in_worker, job) for job in jobs}
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.update(progress.value - bar.n)
                for future in done:
                    yield future.result()
            pool.shutdown()  # before `hold` closes
    except BrokenProcessPool:
        raise UserError(
            f"{jobs[0][0].parent}: a process that built it died, perhaps for want of memory;"
            " run again"
        ) from None


def _start_worker(progress: Synchronized, stop: Connection) -> None:
    global _progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
    _progress = progress


def _end_with_parent(stop: Connection) -> None:
    """The parent lets go of the other end when it fails, and when it is killed."""
    wait_for_end([stop, multiprocessing.parent_process().sentinel])
    os._exit(1)


def _write_in_worker(job: Job) -> Written:
    def advance(n: int) -> None:
        with _progress.get_lock():
            _progress.value += n

    return write_task(*job, advance)


def write_task(
    path: Path, split: str, folder: Path, max_bad: int, advance: Callable[[int], object]
) -> Written:
    """Write one task's records; `advance` is told the bytes of its file as they are read.

    A record repeats its task's labels. They stand before the instances in every known file; where
    they follow them, the file is read a second time, and its records, longer now, written over.
    """
    labels, report = None, advance
    while True:
        quarantine = _Quarantine(folder, path)
        with quarantine:
            scan = Scan(path, max_bad, quarantine.add)
            instances = iter(scan)
            first = [next(instances)]
            met = TaskFile(path, scan.task, 0, scan.header())
            labels = labels or _labels(met)
            encoder = Encoder(scan.task, split, *labels)
            shards = _write_shards(
                folder / scan.task, encoder, _reported(scan, chain(first, instances), report)
            )
        file = scan.file()
        if _labels(file) == labels:
            return Written(_info(file), shards, quarantine.name)
        labels, report = _labels(file), lambda _: None


def _reported(
    scan: Scan, instances: Iterator[Instance], advance: Callable[[int], object]
) -> Iterator[Instance]:
    told = 0
    for i, instance in enumerate(instances):
        if i % STEP == 0:
            place = scan.position()
            advance(place - told)
            told = place
        yield instance
    advance(scan.path.stat().st_size - told)


def _write_shards(
    stem: Path, encode: Encoder, instances: Iterator[Instance]
) -> list[tuple[str, int]]:
    shards = []
    for first in instances:
        path = stem.with_name(f"{stem.name}-{len(shards)}")
        writer, n, size = ArrayRecordWriter(str(path), "group_size:1"), 0, 0
        for instance in chain([first], instances):
            record = encode(instance)
            writer.write(record)
            n, size = n + 1, size + len(record)
            if n == SHARD or size >= SHARD_BYTES:
                break
        _close(writer, path, n)
        shards.append((path.name, n))
    return shards


def _close(writer: ArrayRecordWriter, path: Path, n: int) -> None:
    """The writer tells of a full disk only here."""
    try:
        writer.close()
        whole = ArrayRecordReader(str(path)).num_records() == n
    except RuntimeError as error:
        reason = re.search(r"failed: ([^;]*)", str(error))
        raise OSError(errno.EIO, reason[1] if reason else "the writer failed") from error
    if not whole:
        raise OSError(errno.EIO, "records are missing from a file just written")


class _Quarantine:
    """Bad instances, one JSON object a line; there is a file only if there are some."""

    def __init__(self, folder: Path, path: Path):
        self._file, self._source = None, path
        self._path = folder / f"{task_id(path)}-quarantine"
        self.name = ""

    def add(self, bad: Bad) -> None:
        if self._file is None:
            self._file, self.name = _private(self._path), self._path.name
        where = {"file": self._source.name, "task": task_id(self._source), "ordinal": bad.ordinal}
        line = json.dumps({**where, "rule": bad.rule, "instance": bad.value}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")

    def __enter__(self) -> "_Quarantine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def _labels(file: TaskFile) -> Labels:
    """Category, domains, languages: what each record says of its task."""
    languages = file.texts("Input_language") + file.texts("Output_language")
    category = ", ".join(file.texts("Categories"))
    return category, file.texts("Domains"), tuple(dict.fromkeys(languages))


def _info(file: TaskFile) -> TaskInfo:
    category, domains, languages = _labels(file)
    definition, *rewrites = file.definitions
    return TaskInfo(
        task=file.task,
        category=category,
        domains=domains,
        languages=languages,
        source=", ".join(file.texts("Source")),
        definition=definition,
        rewrites=tuple(rewrites),
        n=file.n,
        start=0,
        bad=file.bad,
    )
