"""What a report says of one run, part by part."""

from types import SimpleNamespace

from eval import sections


def test_counts_tell_which_tasks_lost_something():
    counts = {"items": 1200, "official_skipped": 0, "official_fatal": 3, "by_task": {}}
    counts["by_task"] = {"task130": {"official_fatal": 2}, "task52": {"official_fatal": 1}}
    told = dict(sections.counts(SimpleNamespace(scores={"counts": counts})))
    assert told["test items"] == "1,200"
    assert told["items that the official scorer does not count"] == "0"
    (fatal,) = (value for key, value in told.items() if "dies" in key)
    assert fatal == "3 (task130: 2, task52: 1)"
    assert "empty predictions" not in told  # not counted there
    assert sections.counts(SimpleNamespace(scores={})) == []
