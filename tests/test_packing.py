import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsjax.packing import fill, pack
from medsjax.tokenizer import Tokenizer


def mixed_lengths(n: int) -> np.ndarray:
    """Mean about 430, as MedS-Ins with its long tail cut at 2048."""
    return np.clip(np.random.default_rng(0).gamma(1.2, 360, n), 8, 2048).astype(np.int32)


def naive_best_fit_row_count(lengths, row_length: int) -> int:
    rooms: list[int] = []
    for n in sorted(lengths, reverse=True):
        fitting = [k for k, room in enumerate(rooms) if room >= n]
        if fitting:
            rooms[min(fitting, key=lambda k: rooms[k])] -= n
        else:
            rooms.append(row_length - n)
    return len(rooms)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70).flatmap(lambda t: st.tuples(st.just(t), st.lists(st.integers(1, t)))))
def test_every_example_in_one_row_and_as_few_rows_as_best_fit(case):
    row_length, lengths = case
    lengths = np.array(lengths, np.int32)
    rows = pack(lengths, row_length)
    assert sorted(rows.order) == list(range(len(lengths)))
    assert rows.starts[0] == 0 and rows.starts[-1] == len(lengths)
    for r in range(len(rows)):
        assert 1 <= lengths[rows.examples(r)].sum() <= row_length
    assert len(rows) == naive_best_fit_row_count(lengths, row_length)


def test_mixed_lengths_fill_their_rows():
    lengths = mixed_lengths(20_000)
    rows = pack(lengths, 2048)
    assert fill(rows, lengths, 2048) >= 0.995


def test_fill_is_tokens_over_places():
    lengths = np.array([6, 7], np.int32)
    assert fill(pack(lengths, 10), lengths, 10) == 13 / 20


def test_same_lengths_give_the_same_rows():
    lengths = mixed_lengths(1000)
    once, again = pack(lengths, 2048), pack(lengths, 2048)
    np.testing.assert_array_equal(once.order, again.order)
    np.testing.assert_array_equal(once.starts, again.starts)


def test_order_does_not_follow_length():
    lengths = mixed_lengths(20_000)
    rows = pack(lengths, 2048)
    mean_of_row = [lengths[rows.examples(r)].mean() for r in range(len(rows))]
    assert abs(np.corrcoef(np.arange(len(rows)), mean_of_row)[0, 1]) < 0.05
    longer_first = [
        lengths[row[0]] > lengths[row[-1]]
        for row in map(rows.examples, range(len(rows)))
        if lengths[row[0]] != lengths[row[-1]]
    ]
    assert abs(np.mean(longer_first) - 0.5) < 0.05


def test_neighbours_of_one_length_are_spread_over_rows():
    rows = pack(np.full(10_000, 100), 2000)
    row_of = np.empty(10_000, np.int64)
    row_of[rows.order] = np.repeat(np.arange(len(rows)), np.diff(rows.starts))
    assert np.mean(row_of[1:] == row_of[:-1]) < 0.01


@pytest.mark.parametrize("length", [0, -3, 101])
def test_a_length_outside_the_row_names_its_example(length):
    with pytest.raises(ValueError, match=rf"example 2: {length} tokens, a row takes 1 to 100"):
        pack(np.array([5, 100, length, 7]), 100)


def test_real_lengths_fill_their_rows(realdata):
    """Every tenth instance of the real task files, in Llama-3-style BPE of the bundled base."""
    tokenizer = Tokenizer.load(Path(__file__).parent.parent / "data" / "sample" / "base")
    lengths = []
    for path in sorted((realdata / "corpora_medsins").glob("task*.json.gz")):
        task = json.loads(gzip.decompress(path.read_bytes()))
        definition = len(tokenizer.encode(task["Definition"][0]))
        for instance in task["Instances"][::10]:
            output = instance["output"]
            answer = output if isinstance(output, str) else output[0]
            n = definition + len(tokenizer.encode(instance["input"] + answer))
            lengths.append(min(n, 2048))
    assert len(lengths) > 7_000
    lengths = np.array(lengths, np.int32)
    assert fill(pack(lengths, 2048), lengths, 2048) >= 0.995
