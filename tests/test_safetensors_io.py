"""The safetensors library and ours read each other bit for bit; damage is named in one line."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medsjax import safetensors_io
from medsjax.errors import UserError

KINDS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def random_bits(shape, kind, seed=0) -> np.ndarray:
    """Any bits at all: NaNs with payload, infinities, denormals and negative zero among them."""
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(kind).itemsize)
    return np.frombuffer(raw, kind).reshape(shape)


def tensors(kind=np.float32) -> dict[str, np.ndarray]:
    shapes = {"b.weight": (3, 5), "a": (7,), "c": (2, 3, 4), "d": (6, 2)}
    return {n: random_bits(s, kind, i) for i, (n, s) in enumerate(shapes.items())}


def ours(folder: Path, values: dict, dtype: str, **settings) -> Path:
    folder.mkdir(exist_ok=True)
    shapes = {n: v.shape for n, v in values.items()}
    safetensors_io.write(
        folder, shapes, dict.fromkeys(shapes, dtype), values.__getitem__, **settings
    )
    return folder


def read_all(folder: Path) -> dict[str, np.ndarray]:
    return {n: e.read() for n, e in safetensors_io.entries(folder).items()}


def assert_same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_librarys_file_reads_bit_for_bit(kind, tmp_path):
    save_file(tensors(kind), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_same_bits(read_all(tmp_path), tensors(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_reads_our_file_bit_for_bit(kind, tmp_path):
    folder = ours(tmp_path / "x", tensors(kind), np.dtype(kind).name)
    assert [f.name for f in folder.iterdir()] == ["model.safetensors"]
    assert_same_bits(load_file(folder / "model.safetensors"), tensors(kind))


def test_shards_hold_at_most_max_bytes_and_the_index_names_them(tmp_path):
    values = tensors()
    folder = ours(tmp_path / "x", values, "float32", max_bytes=100)
    index = json.loads((folder / safetensors_io.INDEX).read_text())
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert [s.name for s in shards] == [f"model-{i + 1:05}-of-00003.safetensors" for i in range(3)]
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in values.values())
    for shard in shards:
        held = load_file(shard)
        assert sum(v.nbytes for v in held.values()) <= 100
        assert {n for n, s in index["weight_map"].items() if s == shard.name} == held.keys()
    assert_same_bits(read_all(folder), values)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    folder = ours(tmp_path / "x", tensors(), "float32", max_bytes=1)
    assert len(list(folder.glob("*.safetensors"))) == 4
    assert_same_bits(read_all(folder), tensors())


def truncate_header(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:20])


def truncate_data(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])


def empty_file(folder):
    (folder / "model.safetensors").write_bytes(b"")


def not_json(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json")


def not_utf8(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"\xff" * 8)


def header(folder, **fields):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}
    raw = json.dumps({"w": {k: v for k, v in entry.items() if v is not None}}).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))


DAMAGE = {
    "truncated header": (truncate_header, "truncated"),
    "truncated data": (truncate_data, "truncated: tensor d"),
    "empty file": (empty_file, "truncated"),
    "not json": (not_json, "not a safetensors file"),
    "not utf-8": (not_utf8, "not a safetensors file"),
    "no offsets": (lambda f: header(f, data_offsets=None), "not a safetensors file"),
    "shape is text": (lambda f: header(f, shape="ab"), "not a safetensors file"),
    "offsets are text": (lambda f: header(f, data_offsets=["0", "8"]), "not a safetensors file"),
    "three offsets": (lambda f: header(f, data_offsets=[0, 8, 9]), "not a safetensors file"),
    "dtype is a list": (lambda f: header(f, dtype=["F32"], shape=["2"]), "not a safetensors file"),
    "shape and bytes differ": (lambda f: header(f, shape=[3]), "w.* does not fit"),
    "bytes before the data": (lambda f: header(f, data_offsets=[-8, 0]), "w.* does not fit"),
    "beyond the end": (lambda f: header(f, shape=[4], data_offsets=[0, 16]), "truncated: tensor w"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(name, tmp_path):
    folder = ours(tmp_path / "x", tensors(), "float32")
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        safetensors_io.entries(folder)
    assert "model.safetensors: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_after_it_was_opened_is_named(tmp_path):
    folder = ours(tmp_path / "x", tensors(), "float32")
    entries = safetensors_io.entries(folder)
    truncate_data(folder)
    with pytest.raises(UserError, match="truncated inside tensor d"):
        entries["d"].read()


def test_a_tensor_not_of_floating_type_is_refused_when_read(tmp_path):
    save_file({"ids": np.arange(4)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor ids has dtype I64; .*floating"):
        safetensors_io.entries(tmp_path)["ids"].read()


def index(folder, text) -> None:
    (folder / safetensors_io.INDEX).write_text(text)


def weight_map(folder, **changes) -> str:
    where = json.loads((folder / safetensors_io.INDEX).read_text())["weight_map"]
    return json.dumps({"weight_map": {**where, **changes}})


FIRST, SECOND = (f"model-{i:05}-of-00003.safetensors" for i in (1, 2))
BROKEN_INDEX = {
    "not json": (lambda f: index(f, "{"), "index.json: broken"),
    "no weight_map": (lambda f: index(f, "{}"), "index.json: broken .* weight_map"),
    "a list": (lambda f: index(f, "[]"), "index.json: broken"),
    "map is a list": (lambda f: index(f, '{"weight_map": ["a"]}'), "index.json: broken"),
    "shard is a number": (
        lambda f: index(f, '{"weight_map": {"a": 1}}'),
        "names 1, which is not there",
    ),
    "not utf-8": (lambda f: (f / safetensors_io.INDEX).write_bytes(b"\xff"), "index.json: broken"),
    "absent shard": (lambda f: (f / SECOND).unlink(), f"names {SECOND}, which is not there"),
    "absent tensor": (
        lambda f: index(f, weight_map(f, absent=FIRST)),
        f"absent is in {FIRST}, which does not hold it",
    ),
    "wrong shard": (
        lambda f: index(f, weight_map(f, d=FIRST)),
        f"d is in {FIRST}, which does not hold it",
    ),
    "shard outside the folder": (
        lambda f: index(f, weight_map(f, d="../other.safetensors")),
        "other.safetensors",
    ),
}


@pytest.mark.parametrize("name", BROKEN_INDEX)
def test_a_broken_index_is_named(name, tmp_path):
    folder = ours(tmp_path / "x", tensors(), "float32", max_bytes=100)
    ours(tmp_path, {"d": tensors()["d"]}, "float32")
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    damage, message = BROKEN_INDEX[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        safetensors_io.entries(folder)
    assert "\n" not in str(caught.value)


def test_no_weights_pickled_weights_and_shards_without_index(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.safetensors file here \(none\)"):
        safetensors_io.entries(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights, which are never loaded"):
        safetensors_io.entries(tmp_path)
    folder = ours(tmp_path / "x", tensors(), "float32", max_bytes=100)
    (folder / safetensors_io.INDEX).unlink()
    with pytest.raises(UserError, match=r"3 shards but no model\.safetensors\.index\.json"):
        safetensors_io.entries(folder)
