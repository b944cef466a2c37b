"""One pass over a built set: what each example is, told by hashes, and which test items it repeats.

Reads in parallel processes; keeps 18 bytes an example, and no text. The result is remembered under
the content of both sets.
"""

import hashlib
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import duplicates
from data.build import Built, Record
from data.duplicates import BATCH, NEAR, Index, digest, normalise
from medsjax.errors import UserError

FORMAT = 1
CHUNK = 2048  # examples a process takes at a time
ALONE = 20_000  # fewer examples do not pay for starting processes
MAX_LABELS = 100  # distinct answers of a task with labels; diagnosis has 50
# How an example is like a test item: bits of a byte. Equal inputs are not near ones.
NEAR_SAME, EXACT_SAME, NEAR_OTHER, EXACT_OTHER = 1, 2, 4, 8  # an item of the same task, or another


@dataclass(frozen=True)
class Scan:
    """N examples beside M test items (M = 0: none were given)."""

    inputs: np.ndarray  # uint64 [N]: the normalised input
    answers: np.ndarray  # uint64 [N]: the first answer, stripped
    empty: np.ndarray  # bool [N]: that answer is blank
    likeness: np.ndarray  # uint8 [N]: to any test item
    items: np.ndarray  # uint8 [M]: likeness of each test item to any example


def scan(built: Built, test: Built | None = None, cache: str | Path = "runs/cache") -> Scan:
    """`built` beside `test`, which may be `built` itself: then an item is not held against itself.

    Raises `UserError` where the result cannot be written under `cache`.
    """
    identity = (FORMAT, duplicates.FORMAT, built.fingerprint, test.fingerprint if test else "")
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    path = Path(cache) / f"scan-{built.set}-{name}.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return Scan(**arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            found = _scan(built, test, Path(folder))
            columns = {field.name: getattr(found, field.name) for field in fields(Scan)}
            np.savez(Path(folder) / path.name, **columns)
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room") from error
    return found


def _scan(built: Built, test: Built | None, folder: Path) -> Scan:
    """`folder` holds the index while processes share it."""
    if test is not None:
        _index(test).save(folder)
    items = np.zeros(len(test) if test else 0, np.uint8)
    parts = []
    with tqdm(total=len(built), desc=f"scan {built.set}", unit="example", delay=2) as bar:
        for part, touched, likeness in _chunks(built, test, folder):
            parts.append(part)
            items[touched] |= likeness
            bar.update(len(part[0]))
    return Scan(*(np.concatenate(column) for column in zip(*parts, strict=True)), items)


def _index(test: Built) -> Index:
    numbers = tqdm(range(len(test)), desc="index the test items", unit="item", delay=2)
    return duplicates.index(normalise(test[i].input) for i in numbers)


def _chunks(built: Built, test: Built | None, folder: Path) -> Iterator[tuple]:
    """What `_Worker.chunk` gives for all of `built`, in order."""
    n = len(built)
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    arguments = (built, test, folder)
    workers = min(os.cpu_count() or 1, len(chunks))
    if n < ALONE or workers == 1:
        yield from map(_Worker(*arguments).chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")  # the caller may run threads
    with ProcessPoolExecutor(workers, context, _start, arguments) as pool:
        yield from pool.map(_chunk, chunks)


_worker: "_Worker"


def _start(*arguments) -> None:
    global _worker
    _worker = _Worker(*arguments)


def _chunk(numbers: range) -> tuple:
    return _worker.chunk(numbers)


class _Worker:
    """A process with the sets open; remembers which items it has already reported as repeated."""

    def __init__(self, built: Built, test: Built | None, folder: Path):
        self.built = built
        self.itself = test is not None and built.fingerprint == test.fingerprint
        self.index = None
        self.items = np.zeros(len(test) if test else 0, np.uint8)
        if test is not None:
            self.index = Index.load(folder)
            self.tasks = np.repeat([*test.tasks], [info.n for info in test.tasks.values()])
            self.by_digest = np.argsort(self.index.digests, kind="stable")
            self.digests = self.index.digests[self.by_digest]

    def chunk(self, numbers: range) -> tuple:
        """((inputs, answers, empty, likeness), items newly found repeated, their likeness)."""
        before = self.items.copy()
        columns = []
        for first in numbers[::BATCH]:
            batch = range(first, min(first + BATCH, numbers.stop))
            columns.append(self.batch(first, [self.built[i] for i in batch]))
        part = tuple(np.concatenate(column) for column in zip(*columns, strict=True))
        touched = np.flatnonzero(self.items != before)
        return part, touched, self.items[touched]

    def batch(self, start: int, records: Sequence[Record]) -> tuple:
        texts = [normalise(record.input) for record in records]
        answers = [record.outputs[0].strip() for record in records]
        inputs = np.array([*map(digest, texts)], np.uint64)
        likeness = np.zeros(len(records), np.uint8)
        if self.index is not None:
            first, last = (np.searchsorted(self.digests, inputs, s) for s in ("left", "right"))
            for i, shingles in enumerate(duplicates.shingles(texts)):
                me = start + i if self.itself else -1
                equal = self.by_digest[first[i] : last[i]]
                likeness[i] = self.compare(records[i].task, me, equal, shingles)
        of_answers = np.array([*map(digest, answers)], np.uint64)
        return inputs, of_answers, np.array([not answer for answer in answers]), likeness

    def compare(self, task: str, me: int, equal: np.ndarray, shingles: np.ndarray) -> int:
        """Likeness of one example to the test items, which are marked; `me` is left out."""
        likeness = self.mark(task, equal[equal != me], EXACT_SAME, EXACT_OTHER)
        if not self.index.possible(shingles):
            return likeness
        near = self.index.candidates(shingles)
        near = near[(near != me) & ~np.isin(near, equal)]
        same = self.tasks[near] == task
        bit = np.where(same, NEAR_SAME, NEAR_OTHER).astype(np.uint8)
        # What is marked already need not be compared again, unless nothing else tells of this one.
        fresh = self.items[near] & bit == 0
        likeness |= self.near(task, near[fresh], shingles)
        for mine, flag in ((same, NEAR_SAME), (~same, NEAR_OTHER)):
            left = near[mine & ~fresh]
            while len(left) and not likeness & flag:
                likeness |= self.near(task, left[:BATCH], shingles)
                left = left[BATCH:]
        return likeness

    def near(self, task: str, items: np.ndarray, shingles: np.ndarray) -> int:
        if not len(items):
            return 0
        items = items[self.index.jaccard(shingles, items) >= NEAR]
        return self.mark(task, items, NEAR_SAME, NEAR_OTHER)

    def mark(self, task: str, items: np.ndarray, same_task: int, other_task: int) -> int:
        bits = np.where(self.tasks[items] == task, same_task, other_task).astype(np.uint8)
        self.items[items] |= bits
        return int(np.bitwise_or.reduce(bits, initial=0))


# What the columns of one task tell: answers and inputs uint64 [n].


def is_constant(answers: np.ndarray) -> bool:
    """Whether all of several examples have one answer."""
    return len(answers) > 1 and bool((answers == answers[0]).all())


def has_labels(answers: np.ndarray) -> bool:
    """Whether the answers look like labels: few, each ten times on average."""
    distinct = len(np.unique(answers))
    return distinct <= MAX_LABELS and distinct * 10 <= len(answers)


def conflicts(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Which examples have an input that also stands with another answer: bool [n]."""
    pairs = np.unique(np.stack([inputs, answers], axis=1), axis=0)
    distinct, times = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(inputs, distinct[times > 1])
