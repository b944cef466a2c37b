import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsjax.errors import UserError
from medsjax.packing import fill, measure, pack


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


class Source:
    fingerprint = "ab12"

    def __init__(self, lengths):
        self.lengths, self.calls, self.lock = lengths, 0, threading.Lock()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        with self.lock:
            self.calls += 1
        n = self.lengths[i]
        return np.zeros(n, np.int32), np.ones(n, np.bool_)


def test_measure_reads_each_example_once_and_remembers(tmp_path):
    source = Source(mixed_lengths(1000))
    lengths, lost = measure(source, tmp_path, "measure")
    assert lost == {}
    assert lengths.dtype == np.int32
    np.testing.assert_array_equal(lengths, source.lengths)
    np.testing.assert_array_equal(measure(source, tmp_path, "measure")[0], source.lengths)
    assert source.calls == 1000
    assert os.listdir(tmp_path / "ab12") == ["lengths.npy"]


def test_measure_leaves_nothing_behind_when_an_example_fails(tmp_path):
    with pytest.raises(ValueError):
        measure(Source([3, 4, -1]), tmp_path, "measure")
    assert not list(tmp_path.rglob("*.npy*"))


def test_measure_counts_the_examples_that_lost_something(tmp_path):
    class Losing(Source):
        LOSSES = ("shots", "text")

        def measure(self, i: int) -> tuple[int, int, int]:
            return self.lengths[i], 2 * (i % 3 == 0), 0

    for _ in range(2):  # measured, then from the cache
        lengths, lost = measure(Losing([5, 3, 4, 9]), tmp_path, "measure")
        assert lengths.tolist() == [5, 3, 4, 9]
        assert lost == {"shots": 2, "text": 0}


def test_measure_refuses_lengths_of_other_data(tmp_path):
    measure(Source([3, 4]), tmp_path, "measure")
    with pytest.raises(UserError, match="measures 2 examples, the data has 3"):
        measure(Source([3, 4, 5]), tmp_path, "measure")
