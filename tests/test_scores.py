"""scores.json: errors, trivial baseline, means, and what stays out of them."""

import json

import numpy as np
import pytest

from eval import scores
from eval.tasks import TASKS


def rows(task, pairs):
    """Prediction lines of one task from (prediction, gold) pairs."""
    base = {"task": task, "n_shots": 3, "dropped_shots": 0, "cut_chars": 0, "prompt_tokens": 9}
    return [
        {**base, "index": i, "id": str(i), "prediction": prediction, "gold": [gold]}
        for i, (prediction, gold) in enumerate(pairs)
    ]


def build(*tasks, **kwargs):
    n_shot = {its_rows[0]["task"]: 3 for its_rows in tasks}
    return scores.build([row for task in tasks for row in task], {"seed": 0}, n_shot, **kwargs)


LABELS = rows("task41", [("neutral", "Neutral")] * 60 + [("x", "Entailment")] * 40)


def test_bootstrap_error_is_that_of_a_proportion():
    found = build(LABELS)["results"]["task41"]
    assert found["acc,fixed"] == pytest.approx(60)
    expected = 100 * np.sqrt(0.6 * 0.4 / 100)
    assert found["acc_stderr,fixed"] == pytest.approx(expected, rel=0.1)
    low, high = found["acc_ci95,fixed"]
    assert low == pytest.approx(60 - 1.96 * expected, abs=1.5)
    assert high == pytest.approx(60 + 1.96 * expected, abs=1.5)


def test_resamples_draw_n_items_unequally_and_reproducibly(monkeypatch):
    def weights(task):
        return np.concatenate(list(scores.resamples(7, (0, task))))

    found = weights("task41")
    assert found.shape == (1000, 7) and (found.sum(1) == 7).all()
    assert found.mean(0) == pytest.approx(np.ones(7), abs=0.15)
    assert not np.array_equal(found, weights("task42"))
    monkeypatch.setattr(scores, "BLOCK", 30)  # four resamples at a time
    assert np.array_equal(found, weights("task41"))


def test_trivial_is_the_best_constant():
    assert build(LABELS)["results"]["task41"]["trivial,fixed"] == pytest.approx(60)
    null = "There is no related enetity."
    ner = rows("task126", [("", null)] * 5 + [("", "a, b.")] * 3 + [("", "a.")])
    # always "a, b.": tp 7, fp 10 + 1, fn 0
    assert build(ner)["results"]["task126"]["trivial,fixed"] == pytest.approx(100 * 14 / 25)


def test_means_and_categories():
    ie = rows("task1", [("a", "a")] * 3 + [("b", "c")])
    ie2 = rows("task2", [("a", "a")])
    summary = build(LABELS, ie, ie2)["summary"]
    assert summary["mean"] == pytest.approx((60 + 75 + 100) / 3)
    assert summary["trivial"] == pytest.approx((60 + 75 + 100) / 3)
    assert summary["tasks"] == 3 and summary["n"] == 105
    assert summary["by_category"]["NLI"]["mean"] == pytest.approx(60)
    category = summary["by_category"]["Information Extraction"]
    assert category["mean"] == pytest.approx(87.5) and category["n"] == 5
    low, high = summary["ci95"]
    assert low < summary["mean"] < high


def test_ct_is_pooled_over_items_and_kept_out_of_means():
    text = "No acute finding."
    found = build(
        LABELS, rows("task83", [(text, text)] * 3), rows("task88", [("", text), (text, text)])
    )
    assert found["results"]["CT"]["bleu1,fixed"] == pytest.approx(100 * 4 / 5)
    assert found["results"]["task88"]["bleu1,fixed"] == pytest.approx(50)
    assert found["n-samples"]["CT"] == 5 and "MRI" not in found["results"]
    assert found["summary"]["mean"] == pytest.approx(60)
    assert list(found["summary"]["by_category"]) == ["NLI"]


def test_only_pooled_tasks_leave_no_mean():
    found = build(rows("task83", [("a", "a")]))
    assert found["summary"] == {"by_category": {}}
    assert scores.numbers(found) == pytest.approx({"bench/task83": 100, "bench/CT": 100})
    scores.print_table(found)


def test_every_score_has_its_error_and_the_whole_is_json():
    found = build(LABELS, rows("task114", [("a b", "a b c")]), rows("task126", [("a", "b")]))
    found = json.loads(json.dumps(found, allow_nan=False))
    for name, results in found["results"].items():
        metrics = {key.split(",")[0] for key in results}
        plain = {m for m in metrics if not m.endswith(("_stderr", "_ci95")) and m != "trivial"}
        assert metrics == {m + end for m in plain for end in ("", "_stderr", "_ci95")} | {"trivial"}
        assert found["primary"][name] == f"{TASKS[name].primary},fixed"
    assert {"bleu1", "rouge1", "rougeL"} <= {k.split(",")[0] for k in found["results"]["task114"]}


def test_counts_name_the_tasks_that_lost_something():
    lossy = rows("task41", [("", "Neutral"), ("neutral", "Neutral")])
    lossy[1].update(dropped_shots=2, cut_chars=7)
    skipped, fatal = rows("task126", [("", "a."), ("a", "a.")]), rows("task130", [("", "Croup")])
    whole = rows("task1", [("a", "a")])
    counts = build(lossy, skipped, fatal, whole, leave_one_out=["task1"])["counts"]
    none = dict.fromkeys(
        ("dropped_shots", "cut_inputs", "empty_predictions", "official_skipped", "official_fatal"),
        0,
    )
    by_task = {
        "task41": none | {"dropped_shots": 2, "cut_inputs": 1, "empty_predictions": 1},
        "task126": none | {"empty_predictions": 1, "official_skipped": 1},
        "task130": none | {"empty_predictions": 1, "official_fatal": 1},
    }
    whole = {key: sum(its[key] for its in by_task.values()) for key in none}
    assert counts == {"items": 6, **whole, "by_task": by_task}
    alone = build(lossy, columns={"fixed": scores.COLUMNS["fixed"]})["counts"]
    assert "official_fatal" not in alone


def test_table_shows_before_and_flags_leave_one_out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    before = build(rows("task41", [("x", "Neutral")] * 10))
    scores.print_table(build(LABELS, leave_one_out=["task41"]), before)
    shown = capsys.readouterr().out
    assert "task41*" in shown and "leave-one-out" in shown
    assert "0.0 ± 0.0" in shown and "60.0 ± 4.9" in shown.replace("5.0", "4.9")
