"""One model on one device and on meshes of eight: the same logits, and weights really split."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from medsjax import convert
from medsjax.errors import UserError
from medsjax.sharding import batch_sharding, host_rows, make_mesh, sampling_mesh
from tests import tiny

TOKENS = tiny.tokens(8, 20)
LOGITS = jax.jit(lambda model, tokens: model(tokens))


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_logits_on_a_mesh_equal_one_devices(shape, tiny_folder, tiny_loaded):
    mesh = make_mesh(*shape)
    model, _ = convert.load(tiny_folder, mesh, "float32")
    for leaf in jax.tree.leaves(model):
        ways = leaf.size // leaf.addressable_shards[0].data.size
        assert ways == (8 if leaf.ndim > 2 or leaf.shape[0] == tiny.VOCAB else 1), leaf.shape
    with jax.set_mesh(mesh):
        split = LOGITS(model, jax.device_put(TOKENS, batch_sharding(mesh)))
    alone = LOGITS(tiny_loaded[0], TOKENS)
    assert len(alone.sharding.device_set) == 1 and len(split.sharding.device_set) == 8
    assert np.abs(np.asarray(split) - np.asarray(alone)).max() < 1e-5


def test_the_default_mesh_uses_all_devices():
    assert dict(make_mesh().shape) == {"fsdp": 8, "tensor": 1}
    assert dict(make_mesh(tensor=2).shape) == {"fsdp": 4, "tensor": 2}
    assert dict(make_mesh(4, 0).shape) == {"fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    ("K", "F", "V", "tensor"),
    [(8, 14336, 128256, 8), (2, 14336, 128256, 2), (32, 11008, 32001, 1), (8, 100, 32000, 4)],
)
def test_sampling_splits_over_tensor_what_all_sides_allow(K, F, V, tensor):
    assert dict(sampling_mesh(K, F, V).shape) == {"fsdp": 8 // tensor, "tensor": tensor}


def test_a_mesh_that_leaves_devices_out_is_refused():
    with pytest.raises(UserError, match="3 x 2 does not use all 8 devices"):
        make_mesh(3, 2)


def test_a_mesh_that_does_not_divide_a_parameter_is_refused(tiny_folder):
    """Two kv heads do not split in four."""
    with pytest.raises(UserError, match=r"k_KHD.* side of 2.* tensor=4"):
        convert.load(tiny_folder, make_mesh(2, 4), "float32")


@pytest.mark.parametrize(
    ("devices", "parts"),
    [
        ([[0], [0], [1], [1]], [0, 1]),
        ([[0], [1], [0], [1]], [0, 1]),  # rows of a host need not be neighbours
        ([[0, 0], [1, 1]], [0, 1]),
        ([[0, 1]], [0, 0]),  # a tensor group over two hosts: both feed the same rows
        ([[0, 1], [2, 3]], [0, 0, 1, 1]),
        ([[0, 0, 1, 1, 2, 2]], [0, 0, 0]),
    ],
)
def test_hosts_that_share_rows_feed_the_same(devices, parts, monkeypatch):
    for host, part in enumerate(parts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        found = host_rows(mesh_of(devices))
        assert found == {"process_index": part, "process_count": max(parts) + 1}


def test_rows_that_hosts_share_in_part_are_refused():
    with pytest.raises(UserError, match="splits rows unevenly over 2 hosts"):
        host_rows(mesh_of([[0, 0], [0, 1], [1, 1]]))


def mesh_of(devices: list[list[int]]):
    """A mesh whose devices know only their host."""
    grid = np.array([[SimpleNamespace(process_index=i) for i in row] for row in devices])
    return SimpleNamespace(devices=grid, shape={"fsdp": len(grid), "tensor": grid.shape[1]})
