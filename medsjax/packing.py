"""Lengths -> Rows: which examples share a row of `row_length` tokens.

Best-fit decreasing: longest first, each example goes to the open row it fills up most. No example
is split and none is dropped. What packing sorts by length, it shuffles back with a fixed seed, so
the result depends on the lengths alone and its order says nothing about them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from medsjax import measuring


@dataclass(frozen=True, eq=False)
class Rows:
    """Row r holds the examples `order[starts[r]:starts[r + 1]]`, in that order."""

    order: np.ndarray  # int64 [examples], a permutation
    starts: np.ndarray  # int64 [rows + 1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def examples(self, row: int) -> np.ndarray:
        return self.order[self.starts[row] : self.starts[row + 1]]


def pack(lengths: np.ndarray, row_length: int) -> Rows:
    """Pack examples of `lengths` [n] tokens into rows of at most `row_length` tokens.

    A ValueError names the first example that is empty or longer than a row.
    """
    lengths = np.asarray(lengths, np.int64)
    bad = np.flatnonzero((lengths < 1) | (lengths > row_length))
    if bad.size:
        raise ValueError(
            f"example {bad[0]}: {lengths[bad[0]]} tokens, a row takes 1 to {row_length} "
            f"({bad.size} of {lengths.size} examples do not fit)"
        )
    # Shuffling first keeps neighbours of one length (one task's examples) out of one row. The order
    # inside rows takes a second shuffle: best-fit pairs the last of the long with the first of the
    # short, so in the first shuffle's order the short ones would lead.
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(lengths.size)
    longest_first, _ = _group(row_length - lengths[shuffled], row_length)
    longest_first = shuffled[longest_first]
    rows, n_rows = _best_fit(lengths[longest_first], row_length)
    row_of = np.empty_like(rows)
    row_of[longest_first] = rng.permutation(n_rows)[rows]
    shuffled = rng.permutation(lengths.size)
    order, starts = _group(row_of[shuffled], n_rows)
    return Rows(shuffled[order], starts)


def fill(rows: Rows, lengths: np.ndarray, row_length: int) -> float:
    """Share of the rows' places that hold a token, 0 to 1."""
    return float(np.sum(lengths[rows.order], dtype=np.int64)) / max(1, len(rows) * row_length)


def measure(source, cache_dir: str | Path, desc: str) -> tuple[np.ndarray, dict[str, int]]:
    """Lengths int32 [n] of all examples of `source` in tokens, and how many lost what to fit.

    Each example is rendered once, on all cores, under a progress bar named `desc`; a run that was
    killed leaves what it had measured to the next. A source with `LOSSES`, a tuple of names, and
    `measure(i)`, a tuple of the length and one number a name, has its losses counted; others have
    none. All is kept under `cache_dir/<source.fingerprint>`; the fingerprint must cover what it
    depends on.
    """
    names = getattr(source, "LOSSES", ())
    folder = Path(cache_dir) / source.fingerprint
    table = measuring.measure_all(source, 1 + len(names), folder, desc)
    lost = np.count_nonzero(table[:, 1:], axis=0).tolist()
    return np.ascontiguousarray(table[:, 0]), dict(zip(names, lost, strict=True))


@njit(cache=True)
def _group(keys, n_keys):
    """Stable counting sort: `order`, the indices grouped by key, key k's at starts[k]:starts[k+1].

    Keys are 0 to n_keys - 1.
    """
    starts = np.zeros(n_keys + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(keys.size, np.int64)
    place = starts[:-1].copy()
    for i in range(keys.size):
        order[place[keys[i]]] = i
        place[keys[i]] += 1
    return order, starts


@njit(cache=True)
def _best_fit(lengths, row_length):
    """Row of each example, taken in the order given, and the number of rows.

    Rows with `room` tokens left form a stack: `top[room]`, then `under[row]`. A binary tree over
    room finds the tightest row that still takes an example in log2(row_length) steps.
    """
    row_of = np.empty(lengths.size, np.int64)
    top = np.full(row_length + 1, -1, np.int64)
    under = np.full(lengths.size, -1, np.int64)
    leaves = 1
    while leaves <= row_length:
        leaves *= 2
    occupied = np.zeros(2 * leaves, np.bool_)  # node k covers nodes 2k and 2k + 1; the root is 1
    n_rows = 0
    for i in range(lengths.size):
        room = _first_at_least(occupied, lengths[i])
        if room < 0:
            row, room = n_rows, row_length
            n_rows += 1
        else:
            row = top[room]
            top[room] = under[row]
            if top[room] < 0:
                _clear(occupied, room)
        row_of[i] = row
        room -= lengths[i]
        if top[room] < 0:
            _set(occupied, room)
        under[row] = top[room]
        top[room] = row
    return row_of, n_rows


@njit(cache=True)
def _first_at_least(occupied, leaf):
    """The smallest occupied leaf >= `leaf`, or -1."""
    leaves = occupied.size // 2
    node = leaves + leaf
    while not occupied[node]:
        while node & 1:  # a right child, or the root: nothing further right under its parent
            node >>= 1
        if node == 0:
            return -1
        node += 1
    while node < leaves:
        node *= 2
        if not occupied[node]:
            node += 1
    return node - leaves


@njit(cache=True)
def _set(occupied, leaf):
    node = occupied.size // 2 + leaf
    while node and not occupied[node]:
        occupied[node] = True
        node >>= 1


@njit(cache=True)
def _clear(occupied, leaf):
    node = occupied.size // 2 + leaf
    occupied[node] = False
    node >>= 1
    while node and not (occupied[2 * node] or occupied[2 * node + 1]):
        occupied[node] = False
        node >>= 1
