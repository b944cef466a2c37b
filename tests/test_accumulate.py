"""add_gradients against jax.grad: the numbers, and the buffer that it saves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medsjax.accumulate import add_gradients
from medsjax.model import Dims, Llama
from medsjax.sharding import make_mesh
from medsjax.train import loss_sum


def make(tied: bool, **sizes):
    sizes = {"V": 96, "D": 32, "F": 64, "L": 3, "N": 4, "K": 2, "H": 8} | sizes
    dims = Dims(**sizes, rope_theta=5e5, rope_scaling=None, norm_eps=1e-5, tied=tied)
    return Llama(dims, param_dtype="float32", compute_dtype="float32")


def random_batch(seed: int, V: int = 96, B: int = 4, T: int = 40) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    batch = {
        "tokens_BT": rng.integers(0, V, (B, T)),
        "positions_BT": np.broadcast_to(np.arange(T), (B, T)),
        "segments_BT": 1 + np.cumsum(rng.random((B, T)) < 0.1, axis=1),
        "targets_BT": rng.integers(0, V, (B, T)),
        "loss_mask_BT": rng.random((B, T)) < 0.4,
    }
    return jax.tree.map(jnp.asarray, batch)


def plainly(model, total, grads, batch):
    return jax.tree.map(
        jnp.add, (total, grads), jax.value_and_grad(loss_sum)(model, batch, remat="full")
    )


@pytest.mark.parametrize(("tied", "mesh"), [(False, (1, 1)), (True, (2, 2))])
def test_two_parts_sum_to_jax_grads(tied, mesh):
    with jax.set_mesh(make_mesh(*mesh, jax.devices()[: mesh[0] * mesh[1]])):
        model = make(tied)
        both = []
        for add in (add_gradients, plainly):
            sums, add = (jnp.float32(0), jax.tree.map(jnp.zeros_like, model)), jax.jit(add)
            for seed in range(2):
                sums = add(model, *sums, random_batch(seed))
            both.append(sums)
    assert jax.tree.structure(both[0]) == jax.tree.structure(both[1])
    for ours, plain in zip(*map(jax.tree.leaves, both), strict=True):
        assert ours.dtype == plain.dtype
        np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-6 * float(jnp.abs(plain).max()))


def test_no_second_buffer_of_the_gradients_size():
    with jax.set_mesh(make_mesh(1, 1, jax.devices()[:1])):
        model, batch = make(False, D=64, F=512, L=8), random_batch(0)
        scratch = [
            jax.jit(add, donate_argnums=(1, 2))
            .lower(model, jnp.float32(0), model, batch)
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
            for add in (add_gradients, plainly)
        ]
    layers = sum(a.nbytes for a in jax.tree.leaves(model.blocks))
    assert scratch[1] - scratch[0] > 0.9 * layers
