"""One update by hand, in float64: the loss and gradient a target, the clipping, AdamW."""

from functools import partial

import jax
import numpy as np
import pytest

from medsjax import optim, step
from medsjax.config import Optim
from medsjax.sharding import make_mesh
from tests.test_accumulate import make, random_batch


@pytest.mark.parametrize(
    ("clip", "accumulate", "mesh"), [(100.0, 1, (1, 1)), (1e-3, 2, (1, 1)), (0.5, 2, (2, 2))]
)
def test_a_step_is_adamw_on_the_mean_over_the_batchs_targets(clip, accumulate, mesh):
    lr, decay, eps = 1e-2, 0.1, 1e-3  # a large eps, lest rounding of small gradients is blown up
    settings = Optim(lr=lr, warmup=0.0, weight_decay=decay, clip=clip, eps=eps)
    optimizer = optim.make(settings, 10)
    update = partial(step.train_step, optimizer=optimizer, accumulate=accumulate, remat="full")
    with jax.set_mesh(make_mesh(*mesh, jax.devices()[: mesh[0] * mesh[1]])):
        model, batch = make(False), random_batch(0)
        new, _, seen = jax.jit(update)(model, optimizer.init(model), batch)
        loss = partial(step.loss_sum, remat="none")
        total, grads = jax.jit(jax.value_and_grad(loss))(model, batch)
    targets = int(batch["loss_mask_BT"].sum())
    grads = jax.tree.map(lambda g: np.asarray(g, np.float64) / targets, grads)
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(seen["loss"], total / targets, rtol=1e-6)
    np.testing.assert_allclose(seen["grad_norm"], norm, rtol=1e-5)
    assert seen["targets"] == targets and seen["tokens"] == batch["tokens_BT"].size

    for (path, w), g, ours in zip(
        jax.tree_util.tree_flatten_with_path(model)[0],
        *map(jax.tree.leaves, (grads, new)),
        strict=True,
    ):
        g, w = g * min(1, clip / norm), np.asarray(w, np.float64)
        name = jax.tree_util.keystr(path)
        expected = w - lr * (g / (np.abs(g) + eps) + (0 if "norm" in name else decay) * w)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6, err_msg=name)
