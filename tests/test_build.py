"""data.build: what goes in comes out, whole or not at all, and TensorFlow stays away."""

import json
import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import build as module
from data.build import Built, Record, build, content_fingerprint, find, open_or_build
from medsjax.errors import UserError

TEXTS = ["plain", "", " \n spaces\t", "病 😀 \u2028", "ends in nul\0", "\0", '"quoted"\\']


def write_task(folder: Path, number: int, n: int = 5, **header) -> Path:
    """A small task file with texts that are hard to keep; its inputs tell task and place."""
    folder.mkdir(parents=True, exist_ok=True)
    instances = [
        {"input": f"task{number} in {i} {TEXTS[i % 7]}", "output": TEXTS[i % 7 : i % 7 + 2] or "x"}
        for i in range(n)
    ]
    document = {"Definition": [f"define {number}"], **header, "Instances": instances}
    path = folder / f"task{number}_made_up.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    write_task(tmp_path / "source", 100, n=9)
    write_task(
        tmp_path / "source" / "NER",
        9,
        n=3,
        Definition=["original", "first", "", "second"],
        Categories=["Extraction"],
        Domains=["Medicine", "Biology"],
        Input_language="Chinese",
        Output_language=["Chinese", "English"],
        Source=["a", "b"],
    )
    (tmp_path / "source" / "RewriteDefinitions.json").write_text("{}")
    return tmp_path / "source"


def wanted(source: Path) -> list[Record]:
    records = []
    for path in find(source):
        task = path.name.split("_")[0]
        for i, instance in enumerate(json.loads(path.read_text())["Instances"]):
            output = instance["output"]
            outputs = (output,) if isinstance(output, str) else tuple(output)
            records.append(Record(task, f"{task}-{i}", instance["input"], outputs))
    return records


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("shard", [5, 200_000])
def test_what_goes_in_comes_out(source, tmp_path, monkeypatch, shard):
    monkeypatch.setattr(module, "SHARD", shard)
    built = build(find(source), "ins", tmp_path / "built")
    assert [built[i] for i in range(len(built))] == wanted(source)
    assert len(list((tmp_path / "built").glob("*.array_record*"))) == -(-12 // shard)
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


def test_pickles_by_reopening(source, tmp_path):
    built = build(find(source), "ins", tmp_path / "built")
    again = pickle.loads(pickle.dumps(built))
    assert [again[i] for i in range(len(again))] == wanted(source)
    assert len(pickle.dumps(built)) < 500


def test_the_same_content_is_built_once(source, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = open_or_build(source, "ins", cache)
    monkeypatch.setattr(module, "_write", None)  # a second build would call it
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


def test_only_the_owner_may_open_it(source, tmp_path):
    built = build(find(source), "ins", tmp_path / "built")
    assert stat.S_IMODE(built.path.stat().st_mode) == 0o700


def test_a_failed_build_leaves_nothing(source, tmp_path):
    path = write_task(source, 100, n=300)
    path.write_text(path.read_text().replace('"input": "task100 in 299', '"inputs": "'))
    with pytest.raises(UserError, match="task100, instance 299: input"):
        build(find(source), "ins", tmp_path / "out" / "built")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_build_is_no_obstacle_and_is_swept_later(source, tmp_path, monkeypatch):
    out = tmp_path / "out" / "built"
    script = (
        "import os, signal, sys; from data import build as b; from pathlib import Path\n"
        "b._info = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"  # records written, no index
        "b.build(b.find(sys.argv[1]), 'ins', Path(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(source), str(out)])
    assert killed.returncode == -9 and not out.exists()
    (left,) = leftovers(out.parent)
    (out.parent / ".built-notes").mkdir()  # not ours
    built = build(find(source), "ins", out)
    assert len(built) == 12 and leftovers(out.parent).count(left) == 1  # it may still be alive
    os.utime(out.parent / left, (time.time() - 90_000,) * 2)
    os.utime(out.parent / ".built-notes", (time.time() - 90_000,) * 2)
    module._sweep(out)
    assert leftovers(out.parent) == [".built-notes"]


def test_two_builders_at_once_agree(source, tmp_path, monkeypatch):
    out, write = tmp_path / "built", module._write

    def slow(files, set_, folder, fingerprint):
        monkeypatch.setattr(module, "_write", write)
        build(files, set_, out, fingerprint)  # another process is done meanwhile
        write(files, set_, folder, fingerprint)

    monkeypatch.setattr(module, "_write", slow)
    assert len(build(find(source), "ins", out)) == 12
    assert leftovers(tmp_path) == []


def test_a_damaged_build_is_refused(source, tmp_path):
    out = tmp_path / "built"
    index = build(find(source), "ins", out).path / module.INDEX
    text = index.read_text()
    for damage, rule in (
        (text[:-9], "missing or broken"),
        (text.replace('"format": 1', '"format": 0'), "another format"),
        (text.replace('"files"', '"file"'), "another format"),
        ("[]", "another format"),
    ):
        index.write_text(damage)
        with pytest.raises(UserError, match=rule):
            open_or_build(out, "ins")
    index.write_text(text)
    (records,) = out.glob("*.array_record*")
    os.truncate(records, records.stat().st_size - 1)
    with pytest.raises(UserError, match=f"{records.name} is missing or not of"):
        Built(out)


def test_paths_that_hold_nothing(source, tmp_path):
    with pytest.raises(UserError, match="a path may be a built folder, a folder of task files"):
        open_or_build(tmp_path / "nowhere", "ins")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no task files"):
        open_or_build(tmp_path / "empty", "ins")
    with pytest.raises(UserError, match="exists and is no built folder"):
        build(find(source), "ins", source)
    (source / "task9_again.json.gz").touch()
    with pytest.raises(UserError, match="the same task as"):
        find(source)


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
