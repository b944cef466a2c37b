"""Which bytes a host reads: those that its devices keep, each once, and no others."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from medsjax import convert, weights
from medsjax.sharding import make_mesh
from tests import tiny

HOSTS = {"one half": [0, 1, 2, 3], "every other": [0, 2, 4, 6], "one device": [5], "all": range(8)}


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
def test_a_host_reads_what_its_devices_keep(shape, hosts, seen, tiny_folder):
    """Every parameter, with a mesh of eight of which a host has some."""
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
    """They are the host's memory, which an update must not write into."""
    model = tiny.load(tiny_folder)
    before = np.array(model.norm_D[...])
    twice = jax.jit(lambda m: jax.tree.map(lambda a: 2 * a, m), donate_argnums=0)(model)
    np.testing.assert_array_equal(twice.norm_D[...], 2 * before)
    np.testing.assert_array_equal(tiny.load(tiny_folder).norm_D[...], before)
