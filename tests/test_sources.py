"""data.sources: the right task files and none of the other set, told apart by their content."""

import os
from pathlib import Path

import huggingface_hub
import pytest

from data import sources
from data.catalog import CATALOG, TRAINING
from data.corpora import CORPORA
from data.sources import content_fingerprint, find
from medsjax.errors import UserError
from tests import task_files
from tests.task_files import write_task


@pytest.fixture
def source(tmp_path) -> Path:
    return task_files.folder(tmp_path / "source")


@pytest.mark.parametrize(
    "content, rule",
    [
        ("[]", "must be an object"),
        ("{}", "not empty"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"\\ud83d"', "not JSON"),
        ('{"task1": "text"}', "entry 0 of 1"),
        ('{"1": {"original_def": "a"}}', "entry 0 of 1"),
        ('{"task1": {"original_def": "a"}, "task2": {"original_def": ["a"]}}', "entry 1 of 2"),
        ('{"task1": {"original_def": "a", "auto_rewrite_def": "b"}}', "entry 0 of 1"),
        ('{"task1": {"original_def": "a", "auto_rewrite_def": [1]}}', "entry 0 of 1"),
    ],
)
def test_definitions_of_the_wrong_shape(tmp_path, content, rule):
    path = tmp_path / "definitions.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rule) as caught:
        sources.read_definitions(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        sources.read_definitions(tmp_path)


def test_real_definitions_cover_the_training_tasks(realdata):
    found = sources.read_definitions(realdata / "official" / "RewriteDefinitions.json")
    assert set(found) == set(TRAINING)
    assert sum(len(definitions.rewrites) for definitions in found.values()) == 18_996


def test_files_named_as_the_other_set_are_refused(tmp_path):
    names = {
        "task131_SEER_text_classification_train.json": "ins",
        "task124_pubmedqa_train_set.json": "ins",
        "task132_fact_verication_short_medical_test_train.json": "ins",
        "task131_SEER_text_classification_test.json": "bench",
        "task16_test_healthfact_classification.json": "bench",
        "task51_mmedbench_explanation_chinese_test_only.jsonl": "bench",
        "task122_medmcqa_test_set.json.gz": "bench",
    }
    unmarked = tmp_path / "task12_pubmedqa_classification.json"
    for name, own in names.items():
        for set_ in ("ins", "bench"):
            if set_ == own:
                sources.check_set([unmarked, tmp_path / name], set_)
            else:
                with pytest.raises(UserError, match=name):
                    sources.check_set([unmarked, tmp_path / name], set_)
    mixed = [tmp_path / name for name in names]
    for set_ in ("ins", "bench"):
        with pytest.raises(UserError, match="train and test names are mixed"):
            sources.check_set(mixed, set_)


def test_no_file_of_the_authors_is_taken_for_the_other_set():
    names = {task: CATALOG[task].name for task in TRAINING if CATALOG[task].name}
    for task in range(51, 57):  # of these only the benchmark's names are known
        sources.check_set([Path(f"task{task}_{names.pop(f'task{task}')}.jsonl")], "bench")
    files = [Path(f"{task}_{name}.json") for task, name in names.items()]
    assert len(files) > 90
    for corpus in CORPORA.values():  # as the converters name them
        for name, set_ in ((corpus.train, "ins"), (corpus.test, "bench")):
            sources.check_set([Path(f"{name}.json")], set_)
    sources.check_set(files, "ins")
    for file in files:
        if "_train." not in file.name and "_train_set" not in file.name:
            sources.check_set([file], "bench")  # the test file of many a task has the same name


def test_a_folder_of_both_sets_is_refused(source, tmp_path):
    for name in ("train", "test"):
        write_task(tmp_path / "both" / name, 5)
    with pytest.raises(UserError, match="a folder train and a folder test"):
        find(tmp_path / "both")
    (source / "task1_x_train.json").touch()
    (source / "task1_x_test.json").touch()
    with pytest.raises(UserError, match="train and test go into two folders"):
        find(source)


def test_a_name_on_the_hub(source, monkeypatch):
    asked = []

    def download(name, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert sources.from_hub("some-one/MedS-Ins") == source
    assert asked == [("some-one/MedS-Ins", "dataset", ["task*", "*/task*"])]
    assert sources.from_hub(str(source)) == source
    for path in ("nowhere", "./a/b", "a/b/c", "/a"):
        assert sources.from_hub(path) == Path(path)
    assert len(asked) == 1


def test_no_hub_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"some-one/nothing: no such folder, and the hub did not"):
        sources.from_hub("some-one/nothing")


def test_unchanged_files_are_not_hashed_again(source, tmp_path, monkeypatch):
    cache, files = tmp_path / "cache", find(source)
    path = files[0]
    monkeypatch.setattr(sources.time, "time", lambda: 1e12)  # the files are old
    first = content_fingerprint(files, "ins", cache)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "sha256", None)
        assert content_fingerprint(files, "ins", cache) == first
        assert content_fingerprint(files, "bench", cache) != first
    stat, text = path.stat(), path.read_text()
    path.write_text(text.replace("task9 in 0", "task9 in 1"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert content_fingerprint(files, "ins", cache) not in (first, None)
    (cache / "hashes.json").write_text("[]]")
    path.write_text(text)
    assert content_fingerprint(files, "ins", cache) == content_fingerprint(files, "ins") == first
