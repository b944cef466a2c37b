"""data.shards: several processes write what one would, and all end with the first error."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data import shards
from data.build import build
from data.sources import find
from medsjax.errors import UserError
from tests import task_files
from tests.task_files import TEXTS, leftovers, spoil, wanted, write_task


@pytest.fixture
def source(tmp_path) -> Path:
    return task_files.folder(tmp_path / "source")


def test_labels_may_follow_the_instances(source, tmp_path, monkeypatch):
    first = build(find(source), "ins", tmp_path / "a")
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # a shard an instance: more than the labels need
    for path in find(source):
        document = json.loads(path.read_text())
        text = json.dumps({"Instances": document.pop("Instances"), **document}, indent=9_999)
        path.write_text(text)
    second = build(find(source), "ins", tmp_path / "b")
    assert list(first) == list(second) and first.tasks == second.tasks
    data = tfds.builder_from_directory(second.path).as_data_source("train")
    assert data[0]["category"] == b"Extraction" and len(data) == 12
    assert len(list(second.path.iterdir())) == 12 + 3


def test_several_processes_build_the_same(source, tmp_path, monkeypatch):
    first = build(find(source), "ins", tmp_path / "a")
    monkeypatch.setattr(shards, "PROCESSES_FROM", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    second = build(find(source), "ins", tmp_path / "b")
    files = {p.name: p.read_bytes() for p in first.path.iterdir() if ".array_record" in p.name}
    assert len(files) == 2
    assert files == {name: (second.path / name).read_bytes() for name in files}
    assert list(second) == list(first) and second.tasks == first.tasks
    write_task(source, 7).write_text('{"Definition": "a", "Instances": [{"input": "b"}]}')
    with pytest.raises(UserError, match="task7, instance 0: output"):
        build(find(source), "ins", tmp_path / "c")
    assert not (tmp_path / "c").exists() and leftovers(tmp_path) == []


WORKERS = """
import multiprocessing, os, sys, time
from pathlib import Path
from data import build, shards
os.sched_getaffinity = lambda _: range(2)
shards.PROCESSES_FROM = 0
if __name__ == "__main__":
    import threading
    def tell():
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    threading.Thread(target=tell).start()
    source, out = map(Path, sys.argv[1:])
    build.build([*build.find(source), source / "task8_pipe.json"], "ins", out, "fingerprint")
"""


def test_a_killed_build_takes_its_processes_along(source, tmp_path):
    """One of them waits for a named pipe, forever."""
    os.mkfifo(source / "task8_pipe.json")
    script, out = tmp_path / "script.py", tmp_path / "built"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), str(source), str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    main = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    children = [int(pid) for pid in main.stdout.readline().split()]
    assert len(children) == 2
    main.kill()
    main.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bad_instances_go_into_quarantine(source, tmp_path):
    good = wanted(source)
    for path, ordinals in zip(find(source), ((1,), (0, 8)), strict=True):
        spoil(path, *ordinals)
    out = tmp_path / "built"
    for max_bad, rule in ((0, "instance 1: input"), (1, "instance 8: "), (2, "3 bad instances in")):
        with pytest.raises(UserError, match=rule):
            build(find(source), "ins", out, max_bad=max_bad)
        assert not out.exists() and leftovers(tmp_path) == []
    built = build(find(source), "ins", out, max_bad=3)
    assert list(built) == [good[i] for i in range(12) if i not in (1, 3, 11)]
    assert [(info.n, info.bad, info.start) for info in built.tasks.values()] == [
        (2, 1, 0),
        (7, 2, 2),
    ]
    path = out / "quarantine.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["task"], line["ordinal"]) for line in lines] == [
        ("task9", 1),
        ("task100", 0),
        ("task100", 8),
    ]
    assert lines[2]["file"] == "task100_made_up.json" and lines[2]["rule"].startswith("input")
    assert lines[2]["instance"] == {"output": TEXTS[1:3]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert build(find(source), "ins", out, max_bad=9).fingerprint == built.fingerprint
    with pytest.raises(UserError, match="without 3 bad instances"):
        build(find(source), "ins", out)


def test_nothing_bad_nothing_in_quarantine(source, tmp_path):
    strict = build(find(source), "ins", tmp_path / "a")
    lenient = build(find(source), "ins", tmp_path / "b", max_bad=9)
    assert strict.fingerprint == lenient.fingerprint
    assert not (lenient.path / "quarantine.jsonl").exists()


FULL = """
import resource, sys
from data.build import main
from medsjax.errors import run_main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk, on any machine
run_main(main)
"""


def test_a_full_disk_is_one_line(source, tmp_path):
    path = write_task(source, 100)
    noise = np.random.default_rng(0).bytes(500_000).hex()
    path.write_text(json.dumps({"Definition": "a", "Instances": [{"input": noise, "output": ""}]}))
    out = tmp_path / "out" / "built"
    args = ["--set", "ins", "--source", str(source), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", FULL, *args], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {out}: cannot be written (File too large); give another place, or make room\n"
    )
    assert list(out.parent.iterdir()) == []
