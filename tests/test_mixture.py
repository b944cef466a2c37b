"""data.mixture: the docstring's formula, and which examples, against brute force."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from data import mixture
from data.build import TaskInfo
from medsjax.errors import UserError

KEY = (0, "task1")


def info(task: str, category: str = "") -> TaskInfo:
    return TaskInfo(task, category, (), (), "", "do it", (), 10, 0)


def random_cases(n: int = 200):
    rng = np.random.default_rng(0)
    for _ in range(n):
        tasks = [f"task{i}" for i in range(rng.integers(1, 8))]
        sizes = {task: int(rng.integers(0, 2000)) for task in tasks}
        weights = {task: float(rng.choice([0, 0.1, 0.5, 1, 1, 2, 3.7])) for task in tasks}
        yield sizes, weights, float(rng.choice([1, 1.5, 2, 10])), int(rng.choice([0, 0, 50, 500]))


def test_counts_follow_the_formula():
    for sizes, weights, temperature, cap in random_cases():
        found = mixture.counts(sizes, weights, temperature, cap)
        c = {task: min(n, cap) if cap else n for task, n in sizes.items()}
        below = math.fsum(n ** (1 / temperature) for n in c.values() if n)
        for task, m in found.items():
            if c[task] == 0 or weights[task] == 0:
                assert m == 0
                continue
            share = c[task] ** (1 / temperature) / below
            exact = weights[task] * sum(c.values()) * share
            assert m == 1 if exact < 1 else abs(m - exact) <= 0.5 + 1e-6
            assert isinstance(m, int)


def test_what_each_setting_means():
    sizes = {"task1": 900, "task2": 100, "task3": 0}
    ones = dict.fromkeys(sizes, 1.0)
    assert mixture.counts(sizes, ones, 1.0, 0) == sizes
    assert mixture.counts(sizes, ones, 2.0, 0) == {"task1": 750, "task2": 250, "task3": 0}  # 30:10
    assert mixture.counts(sizes, ones, math.inf, 0) == {"task1": 500, "task2": 500, "task3": 0}
    assert mixture.counts(sizes, ones, 1.0, 300) == {"task1": 300, "task2": 100, "task3": 0}
    twice = ones | {"task2": 2.0}
    assert mixture.counts(sizes, twice, 1.0, 0) == {"task1": 900, "task2": 200, "task3": 0}
    assert mixture.counts(sizes, twice, 2.0, 0) == {"task1": 750, "task2": 500, "task3": 0}
    tiny = ones | {"task2": 1e-9}
    assert mixture.counts(sizes, tiny, 1.0, 0)["task2"] == 1  # a task goes only where it is told to


def test_whole_numbers_are_exact():
    """Rounding errors in the formula never show where it gives whole numbers."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        sizes = {f"task{i}": int(n) for i, n in enumerate(rng.integers(1, 10**7, 122))}
        assert mixture.counts(sizes, dict.fromkeys(sizes, 1.0), 1.0, 0) == sizes
        assert mixture.counts(sizes, dict.fromkeys(sizes, 3.0), 1.0, 0) == {
            task: 3 * n for task, n in sizes.items()
        }


def brute_choice(n: int, m: int, cap: int, order: list[int]) -> list[int]:
    distinct = order[: cap or n]
    return sorted(distinct[j % len(distinct)] for j in range(m))


@pytest.mark.parametrize("cap", [0, 1, 7, 40, 100])
def test_choose_repeats_evenly_within_the_cap(cap):
    n = 40
    whole = mixture.choose(n, n - 1, 0, KEY)
    last = (set(range(n)) - set(whole.tolist())).pop()
    firsts = [set(mixture.choose(n, m, 0, KEY).tolist()) for m in range(n)]
    order = [(b - a).pop() for a, b in itertools.pairwise(firsts)] + [last]
    assert sorted(order) == list(range(n)) and order != sorted(order)
    for m in (0, 1, 6, 7, 39, 40, 41, 100, 333):
        found = mixture.choose(n, m, cap, KEY)
        assert found.dtype == np.int64
        assert found.tolist() == brute_choice(n, m, cap, order)
        copies = Counter(found.tolist()).values()
        assert len(copies) == min(m, n, cap or n)
        assert not m or max(copies) - min(copies) <= 1


def test_choice_depends_on_its_key_alone_and_is_even():
    def drawn(*key) -> list[int]:
        return mixture.choose(100, 30, 0, key).tolist()

    assert drawn(0, "task1") == drawn(0, "task1")
    assert drawn(0, "task1") != drawn(1, "task1") != drawn(0, "task2")
    counts = Counter(i for seed in range(1000) for i in drawn(seed))
    assert all(220 < counts[i] < 380 for i in range(100))  # 300 expected, sigma 14


def test_weights_by_task_and_category():
    infos = [info("task126"), info("task900", "Diagnosis, Novel"), info("task12"), info("task901")]
    ner = "Named Entity Recognition"  # task126's, of the catalog
    found = mixture.weights((f"{ner}=0.5", "task12=3", "Novel=0"), infos)
    assert found == {"task126": 0.5, "task900": 0.0, "task12": 3.0, "task901": 1.0}
    assert mixture.weights((f"{ner}=0.5", "task126=2"), infos)["task126"] == 2.0
    assert mixture.weights(("Novel=2", "Diagnosis=3"), infos)["task900"] == 2.0
    assert mixture.weights(("Diagnosis=3", "Novel=2"), infos)["task900"] == 3.0
    assert set(mixture.weights((), infos).values()) == {1.0}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("task1266=2", "did you mean task126"),
        ("named entity recognition=2", "did you mean Named Entity Recognition"),
        ("Named Enetity Recognition=2", "did you mean Named Entity Recognition"),
        ("NER=2", "there are task126, task12, Named Entity Recognition, Fact Verification"),
        ("task126", "write NAME=NUMBER"),
        ("task126=", "write NAME=NUMBER"),
        ("task126=-1", "write NAME=NUMBER"),
        ("task126=nan", "write NAME=NUMBER"),
        ("task126=inf", "write NAME=NUMBER"),
        ("task126=two", "write NAME=NUMBER"),
    ],
)
def test_a_wrong_weight_is_one_line(setting, told):
    with pytest.raises(UserError) as caught:
        mixture.weights(("task12=1", setting), [info("task126"), info("task12")])
    assert told in str(caught.value) and repr(setting.partition("=")[0])[:-1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_weights_of_one_name_are_refused():
    with pytest.raises(UserError, match="task12 has two"):
        mixture.weights(("task12=1", "task12=2"), [info("task12")])


def test_temperature_moves_shares_towards_equal_and_keeps_the_total():
    sizes = {"task1": 100_000, "task2": 5_000, "task3": 40}
    ones = dict.fromkeys(sizes, 1.0)
    before = Fraction(1)
    for temperature in (1.0, 1.3, 2.0, 5.0, 100.0):
        found = mixture.counts(sizes, ones, temperature, 0)
        assert abs(sum(found.values()) - 105_040) <= 1
        largest = Fraction(max(found.values()), sum(found.values()))
        assert largest < before
        before = largest
