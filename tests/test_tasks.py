"""The benchmark's table: complete, consistent, and as the paper counts it."""

from collections import Counter

from eval.tasks import CATEGORIES, TASKS


def test_the_53_scored_tasks():
    ids = {1, 2, 3, 12, 16, 18, 29, 41, 42, 46, 50, *range(51, 62), 74, 78, *range(83, 95), 100}
    ids |= {106, 110, 112, 114, 117, 118, 119, 122, 123, *range(125, 132)}
    assert {int(name.removeprefix("task")) for name in TASKS} == ids
    assert len(TASKS) == 53 and len(CATEGORIES) == 12


def test_shots_and_tokens_follow_from_the_kind():
    for task in TASKS.values():
        assert task.shots == (0 if task.category == "MCQA" else 3)
        expected = {"ner": 256, "span": 256, "text": 1000}.get(task.kind, 64)
        assert task.max_new_tokens == expected, task.id
    assert {task.primary for task in TASKS.values()} == {"acc", "f1", "bleu1"}


def test_counts_of_the_paper():
    assert sum(TASKS[f"task{i}"].n for i in (57, 122, 123, 58, 59, 60, 61, 129)) == 13701
    assert TASKS["task12"].n == 650 and TASKS["task16"].n == 1188  # swapped in its supplement
    assert Counter(task.pool for task in TASKS.values()) == {"": 41, "CT": 6, "MRI": 6}


def test_label_sets():
    sizes = {name: len(task.labels) for name, task in TASKS.items() if task.labels}
    assert sizes == {
        **{"task123": 3, "task12": 3, "task16": 3, "task41": 3, "task106": 10, "task130": 50},
        **{"task117": 2, "task118": 2, "task119": 2, "task131": 7},
    }
    for task in TASKS.values():
        assert bool(task.labels) == (task.kind in ("label", "multilabel")), task.id
        assert len(set(task.labels)) == len(task.labels)
        assert all(label == " ".join(label.split()).casefold() for label in task.labels)
