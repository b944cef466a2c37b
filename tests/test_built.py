"""data.built: a built folder gives its records, to TFDS and to us alike, or says it is damaged."""

import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data import built as module
from data.build import build, open_or_build
from data.built import Built
from data.sources import find
from data.task_file import Instance
from medsjax.errors import UserError
from tests import task_files
from tests.task_files import wanted, write_task


@pytest.fixture
def source(tmp_path) -> Path:
    return task_files.folder(tmp_path / "source")


def test_tfds_reads_the_same(source, tmp_path):
    built = build(find(source), "bench", tmp_path / "built")
    data = tfds.builder_from_directory(built.path).as_data_source("test")
    assert len(data) == len(built) == 12
    for i, record in enumerate(built):
        info = built.tasks[record.task]
        texts = {"task": record.task, "id": record.id, "input": record.input, "split": "test"}
        lists = {"outputs": record.outputs, "domains": info.domains, "languages": info.languages}
        wanted = {**texts, "category": info.category, **lists}
        assert {key: text_of(value) for key, value in data[i].items()} == wanted
        instance = Instance(record.id, record.input, record.outputs)
        labels = info.category, info.domains, info.languages
        encoded = module.Encoder(record.task, "test", *labels)(instance)
        example = module.tf_example_pb2.Example.FromString
        assert example(encoded) == example(module.features().serialize_example(wanted))


def text_of(value) -> str | tuple[str, ...]:
    return value.decode() if isinstance(value, bytes) else tuple(map(text_of, value))


def test_pickles_by_reopening(source, tmp_path):
    built = build(find(source), "ins", tmp_path / "built")
    again = pickle.loads(pickle.dumps(built))
    assert [again[i] for i in range(len(again))] == wanted(source)
    assert len(pickle.dumps(built)) < 500


def test_threads_read_at_once(source, tmp_path):
    write_task(source, 50, n=400)
    built = build(find(source), "ins", tmp_path / "built")
    order = np.random.default_rng(0).integers(0, len(built), 2000)
    records = wanted(source)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns amid everything
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(built.__getitem__, order))
    finally:
        sys.setswitchinterval(interval)
    assert found == [records[i] for i in order]
    for i in (-1, len(built)):
        with pytest.raises(IndexError):
            built[i]


def test_a_damaged_build_is_refused(source, tmp_path):
    out = tmp_path / "built"
    index = build(find(source), "ins", out).path / module.INDEX
    text = index.read_text()
    for damage, rule in (
        (text[:-9], "missing or broken"),
        (text.replace(f'"format": {module.FORMAT}', '"format": 0'), "another format"),
        (text.replace('"files"', '"file"'), "another format"),
        ("[]", "another format"),
    ):
        index.write_text(damage)
        with pytest.raises(UserError, match=rule):
            open_or_build(out, "ins")
    index.write_text(text)
    records, _ = sorted(out.glob("*.array_record*"))
    os.truncate(records, records.stat().st_size - 1)
    with pytest.raises(UserError, match=f"{records.name} is missing or not of"):
        Built(out)


def test_a_changed_bit_is_seen(source, tmp_path):
    built = build(find(source), "ins", tmp_path / "built")
    path = sorted(built.path.glob("*.array_record*"))[1]
    data = bytearray(path.read_bytes())
    seen, places = 0, np.flatnonzero(np.frombuffer(data, np.uint8))[::7].tolist()
    for place in places:
        data[place] ^= 1
        path.write_bytes(data)
        try:
            assert list(Built(built.path)) == wanted(source)
        except UserError as error:
            assert "damaged" in str(error) or "other records" in str(error)
            seen += 1
        data[place] ^= 1
    assert seen > len(places) / 2
