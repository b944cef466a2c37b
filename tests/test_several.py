"""Several runs: paired differences, spread over seeds, how long they took."""

import json

import numpy as np
import pytest

from eval import predictions, report, runs, several
from eval.scores import build
from tests.test_report import put, row_of, scores, text_of

N = 60


def rows(right, task="task16", n=N, first=0):
    """`n` items of which the numbers in `right` are answered well."""
    golds = [str(i % 3) for i in range(n)]
    return [
        {"task": task, "index": i, "id": f"i{i}", "gold": [golds[i]]}
        | {"prediction": golds[i] if i in right else str((i + 1) % 3)}
        for i in range(first, n)
    ]


def put_run(root, name, its_rows, **config):
    folder = root / name
    n_shot = dict.fromkeys({row["task"] for row in its_rows}, 3)
    put(folder, build(its_rows, {"seed": 0, **config}, n_shot))
    predictions.write(folder, its_rows)
    return folder


def both(tmp_path, one, other):
    return runs.read_all([put_run(tmp_path, "one", one), put_run(tmp_path, "two", other)])


def test_the_interval_is_of_the_difference_on_the_same_items(tmp_path):
    """36 against 30 right: paired, where the 30 are among the 36, the interval leaves out 0;
    unpaired it would not."""
    one, two = both(tmp_path, rows(range(30)), rows(range(36)))
    found = several.paired(one.after, two.after)["task16"]
    assert found.n == N and found.mark.value == pytest.approx(10)
    assert found.mark == (found.mark.value, *np.percentile(found.replicates, [2.5, 97.5]))
    share = 6 / N  # of items on which they differ: a binomial's standard deviation
    assert found.replicates.std() == pytest.approx(100 * (share * (1 - share) / N) ** 0.5, rel=0.1)
    assert found.mark.low > 0 and one.after.mark("task16").high > two.after.mark("task16").low
    back = several.paired(two.after, one.after)["task16"]
    np.testing.assert_allclose(back.replicates, -found.replicates)


def test_equal_answers_differ_by_nothing(tmp_path):
    one, two = both(tmp_path, rows(range(30)), rows(range(30)))
    assert several.paired(one.after, two.after)["task16"].mark == (0, 0, 0)


def test_only_the_same_items_are_paired(tmp_path):
    other = rows(range(40), first=20)
    other[0]["gold"], other[1]["id"] = ["9"], "another"
    one, two = both(tmp_path, rows(range(30)), other)
    found = several.paired(one.after, two.after)["task16"]
    assert found.n == N - 22 and found.mark.value == pytest.approx(100 * 10 / (N - 22))
    html = report.page(report.gather([one, two]))
    table = html[html.index("Final scores of all runs") :]
    assert row_of(table, "task16")[-1].endswith(", n 38")
    mean = next(row for row in report.gather([one, two])["comparison"].foot if row.key == "Mean")
    assert mean.cells[-1].value is None  # the means are over other items


def test_the_comparison_shows_differences_and_that_of_the_means(tmp_path):
    tasks = [("task16", 30, 36), ("task1", 20, 50)]
    one, two = both(
        tmp_path,
        [row for task, a, _ in tasks for row in rows(range(a), task)],
        [row for task, _, b in tasks for row in rows(range(b), task)],
    )
    table = several.comparison([one, two, one])
    assert [head.text for head in table.heads] == [
        "Task", "one", "two", "two − one", "one", "one − one"
    ]  # fmt: skip
    cells = {row.key: row.cells for row in (*table.rows, *table.foot)}
    assert cells["task16"][3].value == pytest.approx(10) and cells["task16"][3].look == "yes"
    assert cells["task16"][5].value == 0 and cells["task16"][5].look == ""
    assert cells["task1"][3].value == pytest.approx(50)
    gap = two.after.mean.value - one.after.mean.value
    assert cells["Mean"][3].value == pytest.approx(gap)
    assert cells["Mean"][3].low < gap < cells["Mean"][3].high


def test_pools_are_paired_over_the_items_of_their_tasks(tmp_path):
    text = "no focal consolidation is seen"

    def reports(words):
        return [
            {"task": task, "index": i, "id": f"i{i}", "gold": [text]}
            | {"prediction": text if i % 7 else words}
            for task in ("task83", "task84")
            for i in range(14)
        ]

    one, two = both(tmp_path, reports("no focal"), reports("no focal consolidation"))
    found = several.paired(one.after, two.after)
    assert found["CT"].n == 28 == 2 * found["task83"].n
    gap = two.after.mark("CT").value - one.after.mark("CT").value
    assert found["CT"].mark.value == pytest.approx(gap) and gap > 0
    assert [several.counted(task) for task in (*found, "task1")] == [False] * 3 + [True]


def test_without_predictions_there_are_no_differences(tmp_path):
    one, two = both(tmp_path, rows(range(30)), rows(range(36)))
    (two.after.folder / "predictions.jsonl").unlink()
    assert several.paired(one.after, two.after) == {}
    table = several.comparison([one, two])
    assert [head.text for head in table.heads] == ["Task", "one", "two"]
    assert "bootstrap" not in table.note


def test_the_change_by_training_has_its_interval(tmp_path):
    for step, right in ((0, 30), (9, 36)):
        put_run(tmp_path / "run/eval", f"step_{step}", rows(range(right)))
    run = runs.read(tmp_path / "run")
    row = row_of(report.page(report.gather([run])), "task16")
    found = several.paired(run.before, run.after)["task16"].mark
    assert row[-4:-2] == ["+10.0", f"+{found.low:.1f} to +{found.high:.1f}"]


# Seeds


def trained(root, name, seed, value, bench_seed=0, lr=0.1, step=20):
    content = scores(task1=(value, value - 5, value + 5, 1.0), task2=(50.0, 45.0, 55.0, 1.0))
    content["config"] |= {"seed": bench_seed, "model": f"weights {name}", "step": step}
    put(root / name / "eval" / f"step_{step}", content)
    config = {"seed": seed, "optim": {"lr": lr}, "workdir": name, "bench": {"seed": bench_seed}}
    (root / name / "config.json").write_text(json.dumps(config))
    return root / name


def test_runs_that_differ_in_their_seeds_alone_show_mean_and_sd(tmp_path):
    folders = [trained(tmp_path, f"s{i}", i, value) for i, value in enumerate((40, 50, 66))]
    odd = [trained(tmp_path, "lr", 9, 99, lr=0.2), trained(tmp_path, "again", 0, 99)]
    start = trained(tmp_path, "start", 5, 1, step=0)
    found = runs.read_all([*folders, *odd, start])
    (table,) = several.seeds(found)
    assert table.title == "Spread over seeds: s0, s1, s2"
    cells = {row.key: [cell.value for cell in row.cells[1:]] for row in (*table.rows, *table.foot)}
    assert cells["task1"] == pytest.approx([52, np.std([40, 50, 66], ddof=1), 40, 66, 3])
    assert cells["task2"] == [50, 0, 50, 50, 3]
    assert cells["Mean"][:2] == pytest.approx([51, np.std([20, 25, 33], ddof=1)])
    assert table.title in text_of(report.page(report.gather(found)))
    assert several.seeds([found[i] for i in (2, 3, 5)]) == [] == several.seeds(found[:1])


def test_evaluations_of_one_model_by_other_draws_are_seeds_too(tmp_path):
    folders = []
    for seed, model in ((0, "a"), (1, "a"), (2, "b")):
        folders.append(tmp_path / f"{model}{seed}")
        content = scores(task1=(40.0 + seed, 30.0, 60.0, 1.0))
        content["config"] |= {"seed": seed, "model": model}
        put(folders[-1], content)
    (table,) = several.seeds(runs.read_all(folders))
    assert table.title == "Spread over seeds: a0, a1"


# Time


def test_times_are_rates_over_what_was_timed(tmp_path):
    content = scores(task1=(40.0, 30.0, 60.0, 1.0))
    content["timing"] = {"seconds": 50.0, "requests": 40, "prompt_tokens": 20_000}
    content["timing"] |= {"new_tokens": 500, "device": "4 x TPU <v5>"}
    put(tmp_path / "timed", content)
    put(tmp_path / "not", scores(task1=(40.0, 30.0, 60.0, 1.0)))
    found = runs.read_all([tmp_path / "timed", tmp_path / "not"])
    html = report.page(report.gather(found))
    part = html[html.index("How long the evaluation took") :]
    assert row_of(part, "timed") == [
        *("timed", "40", "of 100", "50.0", "1.25", "400", "10", "4 x TPU <v5>")
    ]
    assert several.timing(found[1:]) is None
    content["timing"] |= {"seconds": 0.0, "new_tokens": None}
    put(tmp_path / "timed", content)
    (row,) = several.timing(runs.read_all([tmp_path / "timed"])).rows
    assert [cell.shown for cell in row.cells[2:6]] == ["0.0", "0.00", "–", "–"]
