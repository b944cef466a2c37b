"""Rows + source -> packed batches, placed on the mesh. The state of the data is the step.

Epochs are laid end to end as one long sequence of rows, each epoch its own permutation, and step s
takes the next `batch` of them. So a batch is a function of (seed, step) alone, whatever the number
of hosts or workers and wherever a run starts again.

Shape key: B = this host's rows of a step, T = tokens of a row.
"""

import math
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from medsjax.errors import UserError
from medsjax.measuring import end_with_parent
from medsjax.packing import Rows


@lru_cache(maxsize=4)  # two epochs are in use where one ends
def epoch_rows(n_rows: int, epoch: int, seed: int) -> np.ndarray:
    """The order int64 [n_rows] in which `epoch` takes its rows; read-only, as callers share it."""
    order = np.random.default_rng((seed, epoch)).permutation(n_rows)
    order.flags.writeable = False
    return order


def n_steps(n_rows: int, batch: int, epochs: float) -> int:
    """Steps that `epochs` passes over the rows take; the last batch may be part empty."""
    return -(-_total_rows(n_rows, epochs) // batch)


def _total_rows(n_rows: int, epochs: float) -> int:
    # A started row counts; the small number keeps 0.07 epochs of 100 rows at 7, not 8.
    return math.ceil(epochs * n_rows - 1e-6)


def assemble(rows: list[list[tuple[np.ndarray, np.ndarray]]], length: int) -> dict[str, np.ndarray]:
    """Lay examples (ids [n], loss_mask [n]) side by side in rows of `length`; the rest is 0.

    Position t predicts token t + 1, so targets_BT and loss_mask_BT tell of token t + 1 and stop at
    the last token but one of each example. positions_BT restart at 0 with each example, segments_BT
    number the examples of a row from 1; segment 0 is padding.
    """
    shape = (len(rows), length)
    batch = {
        name: np.zeros(shape, np.int32)
        for name in ("tokens_BT", "targets_BT", "positions_BT", "segments_BT")
    }
    batch["loss_mask_BT"] = np.zeros(shape, np.bool_)
    for row, examples in enumerate(rows):
        start = 0
        for segment, (ids, loss_mask) in enumerate(examples, 1):
            stop = start + len(ids)
            batch["tokens_BT"][row, start:stop] = ids
            batch["targets_BT"][row, start : stop - 1] = ids[1:]
            batch["loss_mask_BT"][row, start : stop - 1] = loss_mask[1:]
            batch["positions_BT"][row, start:stop] = np.arange(len(ids))
            batch["segments_BT"][row, start:stop] = segment
            start = stop
    return batch


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # its repr would print examples
class StepSource:
    """A Grain random-access source: element s is this host's rows of global step s, assembled.

    Each element also has `n_examples`, the examples of the whole global step (all hosts agree).
    `batch` counts the global step's rows; host p of P takes the p-th of P equal contiguous slices.
    """

    source: Any  # source[i] -> (ids int32 [n], loss_mask bool [n])
    rows: Rows
    lengths: np.ndarray  # planned length of each example
    length: int
    batch: int
    epochs: float
    seed: int | None  # None: rows in their own order
    process_index: int
    process_count: int

    def __post_init__(self):
        if self.batch < 1 or self.batch % self.process_count:
            raise UserError(
                f"batch = {self.batch}: must be a multiple of the {self.process_count} processes "
                "that share it; set another batch"
            )

    def __len__(self) -> int:
        return n_steps(len(self.rows), self.batch, self.epochs)

    def __getitem__(self, step: int) -> dict[str, Any]:
        rows = self._rows_of(step)
        share = self.batch // self.process_count
        start = self.process_index * share
        examples = [[self._example(i) for i in row] for row in rows[start : start + share]]
        examples += [[]] * (share - len(examples))
        return assemble(examples, self.length) | {"n_examples": sum(map(len, rows))}

    def _rows_of(self, step: int) -> list[np.ndarray]:
        """Example numbers in each row of the global step; fewer than `batch` rows at the end."""
        n_rows = len(self.rows)
        first = step * self.batch
        last = min(first + self.batch, _total_rows(n_rows, self.epochs))
        if self.seed is None:
            return [self.rows.examples(k % n_rows) for k in range(first, last)]
        return [
            self.rows.examples(epoch_rows(n_rows, k // n_rows, self.seed)[k % n_rows])
            for k in range(first, last)
        ]

    def _example(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        ids, loss_mask = self.source[i]
        if not len(ids) == len(loss_mask) == self.lengths[i]:
            raise ValueError(
                f"example {i}: planned {self.lengths[i]} tokens, rendered {len(ids)} (loss mask "
                f"{len(loss_mask)}); the source changed under one fingerprint: measure it again"
            )
        return ids, loss_mask


def batches(
    source: Any,
    rows: Rows,
    lengths: np.ndarray,
    *,
    length: int,
    batch: int,
    epochs: float,
    seed: int | None,
    start_step: int,
    process_index: int,
    process_count: int,
    workers: int,
) -> grain.DatasetIterator:
    """This host's batches from `start_step` to the last step, read ahead by threads.

    `workers` > 0 puts the reading into that many processes instead, which start in seconds; the
    source must be picklable. seed None keeps the rows in their own order in each epoch. `.close()`
    an iterator that is not read to its end, while its threads or workers can still be stopped.
    """
    steps = StepSource(
        source=source,
        rows=rows,
        lengths=lengths,
        length=length,
        batch=batch,
        epochs=epochs,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )
    # An element is a whole batch (megabytes): Grain's default of 500 read ahead would fill memory.
    threads = min(16, os.cpu_count())
    dataset = grain.MapDataset.source(steps)[start_step:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers inherit absl's flags; tyro parsed ours
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker
        )
    return iter(dataset)


def _start_worker(index: int, count: int) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()


def heldout_batches(
    source: Any,
    rows: Rows,
    lengths: np.ndarray,
    *,
    length: int,
    batch: int,
    process_index: int,
    process_count: int,
) -> grain.DatasetIterator:
    """One pass over all rows in their own order, in the same elements as `batches`."""
    return batches(
        source,
        rows,
        lengths,
        length=length,
        batch=batch,
        epochs=1,
        seed=None,
        start_step=0,
        process_index=process_index,
        process_count=process_count,
        workers=0,
    )


def put(batch: dict[str, Any], sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """The arrays of this host's `batch` as global arrays [batch, T]; `n_examples` stays behind."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
        if name.endswith("_BT")
    }
