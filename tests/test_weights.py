"""The table of names at its real size; which bytes a host reads: its devices', each once."""

import itertools
import json
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from medsjax import convert, hf_config, weights
from medsjax.errors import UserError
from medsjax.safetensors_io import Entry
from medsjax.sharding import make_mesh, one_device
from tests import tiny

LLAMA3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
HOSTS = {"one half": [0, 1, 2, 3], "every other": [0, 2, 4, 6], "one device": [5], "all": range(8)}


def test_the_291_tensors_of_llama_3_8b_fill_every_parameter_once(tmp_path):
    """No weights: shapes alone. Each name has a place of its own and of its size; none is left."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B))
    model = convert.abstract(tmp_path, one_device(), "bfloat16", "bfloat16")
    shapes = weights.expected(model.dims)
    assert len(shapes) == 291
    places = {}
    for name, shape in shapes.items():
        param, layer = weights.locate(model, name)
        whole = param.get_value().shape
        assert np.prod(shape) == np.prod(whole if layer is None else whole[1:]), name
        assert not name.startswith("model.layers.") or f".{layer}." in name
        places[id(param), layer] = name
    assert len(places) == 291, "two names for one place"
    leaves = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert leaves == sum(map(np.prod, shapes.values())) == 8_030_261_248


def test_the_real_configs_and_names(realdata):
    """Llama-3-8B's own listing of names and shapes is taken; with one name astray it is refused."""
    folder = realdata / "model_configs"
    dims = {}
    for name in ("Meta-Llama-3-8B", "Llama-3.2-1B"):
        config = json.loads((folder / f"{name}.config.json").read_text())
        dims[name] = hf_config._dims(config)
    listed = json.loads((folder / "llama3-8b_hf_param_shapes.json").read_text())
    eight, small = dims.values()
    assert eight == hf_config._dims(LLAMA3_8B)
    assert small.tied and small.H == 64 and small.rope_scaling.factor == 32.0
    entries = {n: Entry(n, folder, "BF16", tuple(shape), 0) for n, shape in listed.items()}
    assert len(entries) == 291
    weights.check_names(entries, eight, folder)
    entries["model.layers.32.mlp.up_proj.weight"] = entries.pop("model.norm.weight")
    with pytest.raises(UserError, match=r"model\.norm\.weight is missing"):
        weights.check_names(entries, eight, folder)


@pytest.fixture
def seen(monkeypatch):
    """Byte ranges of a file that are read, as (first, past the end)."""
    ranges, original = [], os.preadv

    def preadv(file, buffers, offset):
        got = original(file, buffers, offset)
        ranges.append((offset, offset + got))
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    return ranges


@pytest.mark.parametrize("hosts", HOSTS)
@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_a_host_reads_what_its_devices_keep(shape, hosts, seen, tiny_folder, monkeypatch):
    """Every parameter, with a mesh of eight of which a host has some; embeddings in pieces."""
    monkeypatch.setattr(weights, "PIECE", 1000)
    mesh = make_mesh(*shape)
    entries, _ = convert.inspect(tiny_folder)
    model = convert.abstract(tiny_folder, mesh, "bfloat16", "bfloat16")
    stored = load_file(tiny_folder / "model.safetensors")
    mine = [jax.devices()[i] for i in HOSTS[hosts]]
    with ThreadPoolExecutor(2) as pool:
        for template in weights.templates(model.dims):
            names = weights.names(template, model.dims)
            param, layer = weights.locate(model, names[0])
            aim = param.get_value()
            where = aim.sharding.devices_indices_map(aim.shape)
            holders = weights.shares(aim.shape, {d: where[d] for d in mine})
            assert sorted(itertools.chain(*holders.values()), key=str) == sorted(mine, key=str)
            seen.clear()
            found = [entries[name] for name in names]
            args = (found, aim.shape, aim.dtype, list(holders), layer is not None, pool)
            parts = weights.read(*args)
            tensors = [stored[name] for name in names]
            whole = (tensors[0] if layer is None else np.stack(tensors)).reshape(aim.shape)
            for box, part in parts.items():
                index = tuple(slice(*side) for side in box)
                np.testing.assert_array_equal(part, whole[index].astype(aim.dtype))
            kept = sum(part.size for part in parts.values()) * whole.dtype.itemsize
            assert sum(end - start for start, end in seen) == kept, template
            reads = sorted(seen)
            gaps = [(a[1], b[0]) for a, b in itertools.pairwise(reads)]
            assert all(end <= start for end, start in gaps), "each byte once"


def test_on_cpu_the_memory_read_into_is_the_devices_own(tiny_folder, tiny_loaded):
    """No second copy of the weights: they lie at the start of pages of their own."""
    for leaf in jax.tree.leaves(tiny_loaded[0]):
        assert leaf.unsafe_buffer_pointer() % os.sysconf("SC_PAGE_SIZE") == 0


def test_loaded_weights_can_be_donated(tiny_folder):
    model = tiny.load(tiny_folder)
    before = np.array(model.norm_D[...])
    twice = jax.jit(lambda m: jax.tree.map(lambda a: 2 * a, m), donate_argnums=0)(model)
    np.testing.assert_array_equal(twice.norm_D[...], 2 * before)


def test_no_more_than_the_largest_parameter_is_on_the_host_beside_the_devices(
    tmp_path, monkeypatch
):
    """Where devices have memory of their own, to which all is copied."""
    folder = tiny.write(tmp_path / "wide", hidden_size=64, intermediate_size=1024)
    alive = most = 0
    aligned, put = weights._aligned, jax.device_put

    def counted(shape, dtype):
        nonlocal alive, most
        buffer = aligned(shape, dtype)
        alive += buffer.nbytes
        most = max(most, alive)
        weakref.finalize(buffer.base, gone, buffer.nbytes)
        return buffer

    def gone(size):
        nonlocal alive
        alive -= size

    monkeypatch.setattr(weights, "_aligned", counted)
    monkeypatch.setattr(jax, "device_put", lambda value, device: put(np.array(value), device))
    model = tiny.load(folder)
    assert most == max(leaf.nbytes for leaf in jax.tree.leaves(model)) and alive == 0
