"""data.build: what goes in comes out, whole or not at all, and TensorFlow stays away."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from data import build as module
from data import shards, sources
from data.build import Built, build, find, main, open_or_build
from data.sources import content_fingerprint
from medsjax.errors import UserError, run_main
from tests import task_files
from tests.task_files import leftovers, spoil, wanted, write_task


@pytest.fixture
def source(tmp_path) -> Path:
    return task_files.folder(tmp_path / "source")


@pytest.mark.parametrize("shard", [5, 200_000])
def test_what_goes_in_comes_out(source, tmp_path, monkeypatch, shard):
    monkeypatch.setattr(shards, "SHARD", shard)
    built = build(find(source), "ins", tmp_path / "built")
    assert [built[i] for i in range(len(built))] == list(built) == wanted(source)
    lengths = [3, 5, 4] if shard == 5 else [3, 9]  # tasks share no file
    assert len(list((tmp_path / "built").glob("*.array_record*"))) == len(lengths)
    split = tfds.builder_from_directory(built.path).info.splits["train"]
    assert split.shard_lengths == lengths
    for task in built.tasks.values():
        own = [i for i in range(len(built)) if built[i].task == task.task]
        assert own == list(range(task.start, task.start + task.n))


def test_what_holds_for_a_task(source, tmp_path):
    built = build(find(source), "bench", tmp_path / "built")
    assert list(built.tasks) == ["task9", "task100"]  # by number
    task = built.tasks["task9"]
    assert (task.category, task.source) == ("Extraction", "a, b")
    assert (task.domains, task.languages) == (("Medicine", "Biology"), ("Chinese", "English"))
    assert (task.definition, task.rewrites) == ("original", ("first", "second"))
    assert built.set == "bench" and (task.n, task.start) == (3, 0)
    assert built.tasks["task100"].category == "" and built.tasks["task100"].rewrites == ()


def test_the_same_content_is_built_once(source, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = open_or_build(source, "ins", cache)
    monkeypatch.setattr(shards, "write", None)  # a second build would call it
    assert open_or_build(source, "ins", cache).path == first.path
    assert build(find(source), "ins", first.path).fingerprint == first.fingerprint
    assert open_or_build(first.path, "ins", cache).path == first.path
    moved = source.rename(tmp_path / "elsewhere")
    assert open_or_build(moved, "ins", cache).path == first.path
    assert open_or_build(tuple(find(moved)), "ins", cache).path == first.path


def test_other_content_or_set_is_another_build(source, tmp_path):
    prints = {content_fingerprint(find(source), set_) for set_ in ("ins", "bench")}
    prints.add(content_fingerprint(find(source)[:1], "ins"))
    first = build(find(source), "ins", tmp_path / "built")
    write_task(source, 100, n=8)
    prints.add(content_fingerprint(find(source), "ins"))
    assert len(prints) == 4
    with pytest.raises(UserError, match="build of other files"):
        build(find(source), "ins", tmp_path / "built")
    assert Built(tmp_path / "built").fingerprint == first.fingerprint


def test_train_and_test_folders_are_not_exchanged(source, tmp_path):
    build(find(source), "ins", tmp_path / "built")
    with pytest.raises(UserError, match="built with --set ins, used as bench"):
        open_or_build(tmp_path / "built", "bench")


def test_names_of_the_other_set_are_refused(source, tmp_path):
    for name, set_ in (("task100_test_set.json", "ins"), ("task100_x_train.json", "bench")):
        renamed = (source / "task100_made_up.json").rename(source / name)
        with pytest.raises(UserError, match=f"1 of 2 files are not named as .*{name}"):
            open_or_build(source, set_, tmp_path / "cache")
        renamed.rename(source / "task100_made_up.json")
    assert not list((tmp_path / "cache").glob("[ib]*"))


def test_only_the_owner_may_open_it(source, tmp_path):
    built = build(find(source), "ins", tmp_path / "built")
    assert stat.S_IMODE(built.path.stat().st_mode) == 0o700


def test_a_failed_build_leaves_nothing(source, tmp_path):
    path = write_task(source, 100, n=300)
    path.write_text(path.read_text().replace('"input": "task100 in 299', '"inputs": "'))
    with pytest.raises(UserError, match="task100, instance 299: input"):
        build(find(source), "ins", tmp_path / "out" / "built")
    assert list((tmp_path / "out").iterdir()) == []


KILLED = """
import os, signal, sys, time
from pathlib import Path
from data import build, shards
def stop(*_):
    print("records written", flush=True)
    time.sleep(60)
build._finish = stop  # no index yet
build.build(build.find(sys.argv[1]), "ins", Path(sys.argv[2]))
"""


def test_a_killed_build_is_no_obstacle_and_a_live_one_is_left_alone(source, tmp_path):
    out = tmp_path / "out" / "built"
    command = [sys.executable, "-c", KILLED, str(source), str(out)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert other.stdout.readline()
    (left,) = leftovers(out.parent)
    (out.parent / ".built-notes").mkdir()  # not ours
    module._sweep(out)
    assert sorted(leftovers(out.parent)) == [".built-notes", left]
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert len(build(find(source), "ins", out)) == 12
    assert leftovers(out.parent) == [".built-notes"]


def test_what_another_machine_left_goes_after_a_day(source, tmp_path):
    left = tmp_path / ".built.building-elsewhere-abcd_123"
    left.mkdir()
    build(find(source), "ins", tmp_path / "built")
    assert left.exists()
    os.utime(left, (time.time() - 90_000,) * 2)
    module._sweep(tmp_path / "built")
    assert not left.exists()


def test_two_builders_at_once_agree(source, tmp_path, monkeypatch):
    out, write = tmp_path / "built", shards.write

    def slow(*args):
        monkeypatch.setattr(shards, "write", write)
        build(find(source), "ins", out)  # another process is done meanwhile
        return write(*args)

    monkeypatch.setattr(shards, "write", slow)
    assert len(build(find(source), "ins", out)) == 12
    assert leftovers(tmp_path) == []


def test_paths_that_hold_nothing(source, tmp_path):
    with pytest.raises(UserError, match="a path may be a built folder, a folder of task files"):
        open_or_build(tmp_path / "nowhere", "ins")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no task files"):
        open_or_build(tmp_path / "empty", "ins")
    with pytest.raises(UserError, match="exists and is no built folder"):
        build(find(source), "ins", source)
    (source / "task9_again.json.gz").touch()
    with pytest.raises(UserError, match=r"the same task as .*keep one"):
        find(source)


def test_definitions_replace_those_of_the_files(source, tmp_path):
    path = tmp_path / "RewriteDefinitions.json"
    entry = {"original_def": "new", "auto_rewrite_def": ["newer", " ", "newest"]}
    path.write_text(json.dumps({"task9": entry, "task77": entry}))
    definitions = sources.read_definitions(path)
    plain = build(find(source), "ins", tmp_path / "a")
    built = build(find(source), "ins", tmp_path / "b", definitions=definitions)
    task = built.tasks["task9"]
    assert (task.definition, task.rewrites, task.redefined) == ("new", ("newer", "newest"), True)
    assert built.tasks["task100"] == plain.tasks["task100"]
    assert list(built) == list(plain) and built.fingerprint != plain.fingerprint
    assert [note.split()[-1] for note in module.notes(built)] == ["task100"]
    with pytest.raises(UserError, match="build of other files"):
        build(find(source), "ins", tmp_path / "a", definitions=definitions)


def test_delete_removes_a_build_and_its_copy(source, tmp_path):
    cache = tmp_path / "cache"
    other = open_or_build(write_task(tmp_path / "x", 5), "ins", cache)
    copy = open_or_build(source, "ins", cache)
    definitions = {"task9": sources.Definitions("new", ())}
    spoil(write_task(tmp_path / "y", 3), 2)
    built = build(find(source), "ins", tmp_path / "built", definitions=definitions)
    bad = build(find(tmp_path / "y"), "ins", tmp_path / "bad", max_bad=1)
    (built.path / "notes").touch()
    with pytest.raises(UserError, match="holds notes, which no build writes"):
        module.delete(built.path, cache)
    assert Built(built.path) and Built(copy.path)
    (built.path / "notes").unlink()
    assert module.delete(built.path, cache) == [built.path, copy.path]
    assert not built.path.exists() and not copy.path.exists() and Built(other.path)
    assert module.delete(bad.path, cache) == [bad.path] and not bad.path.exists()
    for path in (source, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="missing or broken"):
            module.delete(path, cache)
    assert find(source)


def test_the_command_without_tensorflow(source, tmp_path):
    script = (
        "import sys; from data.build import main; main()\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules"
    )
    args = ["--set", "ins", "--source", str(source), "--out", str(tmp_path / "built")]
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "task100" in shown and "12 examples of 2 tasks" in shown


def test_the_command(source, tmp_path, monkeypatch, capsys):
    definitions = tmp_path / "definitions.json"
    definitions.write_text('{"task9": {"original_def": "a"}}')
    out = str(tmp_path / "built")
    spoil(find(source)[0], 2)

    def run(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["build", *args])
        run_main(main)
        return " ".join(capsys.readouterr().out.split())

    command = ("--set", "bench", "--source", str(source), "--out", out, "--max-bad", "1")
    shown = run(*command, "--definitions", str(definitions))
    assert "11 examples of 2 tasks" in shown
    assert "1 bad instances left out" in shown and "quarantine.jsonl" in shown
    assert "definitions replaced in 1 tasks; 1 tasks it lacks keep their own: task100" in shown
    assert f"deleted {out}" in run("--delete", out)
    assert not Path(out).exists()
    for wrong in (["--set", "ins"], [*command[:-1], "-1"], ["--delete", out]):
        with pytest.raises(SystemExit) as caught:
            run(*wrong)
        assert caught.value.code == 2
