import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medsjax.errors import UserError
from medsjax.input_pipeline import (
    StepSource,
    assemble,
    batches,
    epoch_rows,
    heldout_batches,
    n_steps,
    put,
)
from medsjax.packing import pack

LENGTH = 64
LENGTHS = np.random.default_rng(0).integers(1, LENGTH + 1, 90).astype(np.int32)
ROWS = pack(LENGTHS, LENGTH)
ONE_HOST = {"process_index": 0, "process_count": 1}


class Source:
    """Token k of example i is 1000 * (i + 1) + k, so a batch tells what it holds."""

    fingerprint = "00"

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, i):
        n = LENGTHS[i]
        mask = np.random.default_rng(i).random(n) < 0.5
        return (1000 * (i + 1) + np.arange(n)).astype(np.int32), mask


def steps(**changes) -> StepSource:
    values = {"length": LENGTH, "batch": 8, "epochs": 2.0, "seed": 3} | ONE_HOST
    return StepSource(source=Source(), rows=ROWS, lengths=LENGTHS, **(values | changes))


def read(start_step=0, workers=0, **changes) -> list[dict]:
    values = {"length": LENGTH, "batch": 8, "epochs": 2.0, "seed": 3} | ONE_HOST | changes
    return list(batches(Source(), ROWS, LENGTHS, start_step=start_step, workers=workers, **values))


def assert_equal(ours: list[dict], theirs: list[dict]):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def examples_in(batch: dict) -> list[int]:
    first_tokens = (batch["segments_BT"] > 0) & (batch["positions_BT"] == 0)
    return list(batch["tokens_BT"][first_tokens] // 1000 - 1)


def test_assemble_equals_token_by_token():
    rng = np.random.default_rng(0)
    rows = [
        [(rng.integers(1, 99, n).astype(np.int32), rng.random(n) < 0.5) for n in row]
        for row in ([1, 5, 1, 9], [16], [], [2, 3])
    ]
    batch = assemble(rows, 16)
    for r, row in enumerate(rows):
        places = [(s, k) for s, (ids, _) in enumerate(row) for k in range(len(ids))]
        for t in range(16):
            got = {name: array[r, t] for name, array in batch.items()}
            want = dict.fromkeys(got, 0)
            if t < len(places):
                segment, k = places[t]
                ids, mask = row[segment]
                want["tokens_BT"], want["positions_BT"] = ids[k], k
                want["segments_BT"] = segment + 1
                if k + 1 < len(ids):
                    want["targets_BT"], want["loss_mask_BT"] = ids[k + 1], mask[k + 1]
            assert got == want, (r, t)
    dtypes = {name: array.dtype for name, array in batch.items()}
    assert dtypes.pop("loss_mask_BT") == np.bool_
    assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_each_epoch_holds_every_example_once_whole():
    seen: list[int] = []
    for batch in read(epochs=3.0):
        examples = examples_in(batch)
        assert batch["n_examples"] == len(examples)
        assert np.sum(batch["segments_BT"] > 0) == LENGTHS[examples].sum()
        seen += examples
    n = len(LENGTHS)
    epochs = [seen[k : k + n] for k in (0, n, 2 * n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_last_batch_is_filled_with_empty_rows():
    assert len(ROWS) * 2 % 8, "choose lengths that leave a rest"
    *_, last = read()
    n_left = len(ROWS) * 2 % 8
    assert last["tokens_BT"].shape == (8, LENGTH)
    assert np.all(last["segments_BT"][:n_left, 0] == 1)
    assert last.pop("n_examples") == len(examples_in(last))
    for array in last.values():
        assert not np.any(array[n_left:])


@pytest.mark.parametrize(
    ("n_rows", "batch", "epochs", "want"),
    [
        (30, 8, 1, 4),
        (32, 8, 1, 4),
        (100, 1, 0.07, 7),
        (3, 1, 1.5, 5),
        (10, 128, 5, 1),
        (0, 8, 1, 0),
    ],
)
def test_number_of_steps(n_rows, batch, epochs, want):
    assert n_steps(n_rows, batch, epochs) == want


def test_part_of_an_epoch_is_its_beginning():
    half, whole = read(epochs=0.5, batch=1), read(epochs=1.0, batch=1)
    assert len(half) == -(-len(ROWS) // 2)
    assert_equal(half, whole[: len(half)])


def test_same_seed_same_order_another_seed_another():
    assert_equal(read(), read())
    assert [examples_in(b) for b in read()] != [examples_in(b) for b in read(seed=4)]


def test_epoch_rows_is_a_permutation_keyed_by_seed_and_epoch():
    orders = [tuple(epoch_rows(50, epoch, seed)) for epoch in range(3) for seed in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize("process_count", [2, 4])
def test_hosts_together_read_what_one_reads(process_count):
    hosts = [read(process_index=p, process_count=process_count) for p in range(process_count)]
    for whole, *shares in zip(read(), *hosts, strict=True):
        for name, array in whole.items():
            if name == "n_examples":
                assert {share[name] for share in shares} == {array}
            else:
                np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), array)


@pytest.mark.parametrize("start_step", [1, 5, n_steps(len(ROWS), 8, 2.0)])
def test_starting_at_a_step_continues_from_it(start_step):
    assert_equal(read(start_step=start_step), read()[start_step:])


@pytest.mark.slow
def test_worker_processes_read_the_same():
    """Here those of one host in four; that hosts together read what one reads is tested above."""
    host = {"process_index": 2, "process_count": 4}
    assert_equal(read(start_step=1, workers=2, **host), read(start_step=1, **host))


FEED = """
import time
from tests.test_input_pipeline import LENGTH, LENGTHS, ONE_HOST, ROWS, Source, batches
if __name__ == "__main__":
    more = {"length": LENGTH, "batch": 8, "epochs": 2.0, "seed": 3, **ONE_HOST}
    fed = batches(Source(), ROWS, LENGTHS, start_step=0, workers=2, **more)
    next(fed)
    print("fed", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_worker_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "feed.py").write_text(FEED)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "feed.py")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "fed\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        parent.kill()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2 and alive == []


def test_any_step_alone_is_that_step():
    """In any order, as a step is a function of its number."""
    alone, whole = steps(), read()
    for step in np.random.default_rng(0).permutation(len(alone)):
        assert_equal([alone[step]], [whole[step]])


def test_steps_pickle():
    assert_equal([pickle.loads(pickle.dumps(steps()))[2]], [steps()[2]])


def test_heldout_is_one_pass_in_row_order():
    got = heldout_batches(Source(), ROWS, LENGTHS, length=LENGTH, batch=8, **ONE_HOST)
    assert [i for batch in got for i in examples_in(batch)] == list(ROWS.order)


def test_batch_that_hosts_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"batch = 6: must be a multiple of the 4 processes"):
        steps(batch=6, process_count=4)


def test_another_length_than_planned_names_the_example():
    planned = LENGTHS.copy()
    example = ROWS.examples(0)[0]
    planned[example] += 1
    got = batches(
        Source(), ROWS, planned, length=LENGTH, batch=8, epochs=1, seed=0,
        start_step=0, workers=0, **ONE_HOST,
    )  # fmt: skip
    want = rf"example {example}: planned {planned[example]} tokens, rendered {LENGTHS[example]}"
    with pytest.raises(ValueError, match=want):
        list(got)


def test_put_places_the_rows_on_the_mesh():
    devices = np.array(jax.devices())
    sharding = NamedSharding(Mesh(devices, ("fsdp",)), PartitionSpec("fsdp", None))
    batch = steps(batch=2 * len(devices))[0]
    placed = put(batch, sharding)
    assert placed.keys() == batch.keys() - {"n_examples"}
    for name, array in placed.items():
        assert array.sharding == sharding
        np.testing.assert_array_equal(array, batch[name])
