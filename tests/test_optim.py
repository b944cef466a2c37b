"""AdamW: its schedule, and its moments in bfloat16 against float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medsjax import optim
from medsjax.config import Optim


def run(adam, scales):
    """Updates [n, 200] of noisy gradients around each of n scales, and the last state."""
    rng, state = np.random.default_rng(0), adam.init({"w_D": jnp.zeros(200)})
    update, seen = jax.jit(adam.update), []
    for scale in scales:
        grads = {"w_D": jnp.asarray(scale * rng.normal(1, 0.3, 200), jnp.float32)}
        updates, state = update(grads, state)
        seen.append(updates["w_D"])
    return np.stack(seen), state


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    rate = optim.schedule(Optim(lr=0.5, warmup=0.1, final=0.2), 100)
    got = [float(rate(step)) for step in range(100)]
    np.testing.assert_allclose(got[:10], 0.05 * np.arange(1, 11), rtol=1e-6)
    cosine = 0.5 * (0.2 + 0.8 * (1 + np.cos(np.pi * np.arange(1, 91) / 90)) / 2)
    np.testing.assert_allclose(got[10:], cosine, rtol=1e-5)


def test_updates_are_adamw_with_clipping_by_hand():
    """In float64: gradients below the norm's limit and far above it, decay but for norms."""
    settings = Optim(lr=0.1, warmup=0.3, final=0.5, b1=0.8, b2=0.9, weight_decay=0.2, clip=2.0)
    optimizer, rng = optim.make(settings, 10), np.random.default_rng(1)
    params = {"w_D": rng.standard_normal(30), "norm_D": rng.standard_normal(30)}
    ours = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    state, rate = optimizer.init(ours), optim.schedule(settings, 10)
    m, v = ({name: np.zeros(30) for name in params} for _ in range(2))
    for t, size in enumerate((0.05, 50.0, 1.0), 1):
        grads = {name: size * rng.standard_normal(30) for name in params}
        given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), grads)
        updates, state = optimizer.update(given, state, ours)
        ours = optax.apply_updates(ours, updates)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for name, w in params.items():
            g = grads[name] * min(1, settings.clip / norm)
            m[name] = settings.b1 * m[name] + (1 - settings.b1) * g
            v[name] = settings.b2 * v[name] + (1 - settings.b2) * g * g
            m_hat, v_hat = m[name] / (1 - settings.b1**t), v[name] / (1 - settings.b2**t)
            decay = settings.weight_decay * w if name == "w_D" else 0
            step = m_hat / (np.sqrt(v_hat) + settings.eps) + decay
            params[name] = w - float(rate(t - 1)) * step
            np.testing.assert_allclose(ours[name], params[name], rtol=0, atol=2e-6)


def test_moments_in_float32_are_plain_adam():
    ours, state = run(optim.adam(Optim(b1=0.8)), np.ones(5))
    plain, plain_state = run(optax.scale_by_adam(0.8), np.ones(5))
    np.testing.assert_array_equal(ours, plain)
    assert jax.tree.map(lambda a: a.dtype, state) == jax.tree.map(lambda a: a.dtype, plain_state)


@pytest.mark.parametrize("kinds", [{"m_dtype": "bfloat16"}, {"v_dtype": "bfloat16", "b2": 0.95}])
def test_a_moment_in_bfloat16_changes_updates_by_its_rounding(kinds):
    settings = Optim(**kinds)
    ours, state = run(optim.adam(settings), np.ones(50))
    plain, _ = run(optim.adam(Optim(b2=settings.b2)), np.ones(50))
    assert state.mu["w_D"].dtype == settings.m_dtype and state.nu["w_D"].dtype == settings.v_dtype
    assert ours.dtype == np.float32
    assert 0 < np.abs(ours / plain - 1).max() < 0.03


def test_v_in_bfloat16_stalls_with_a_slow_decay_as_the_help_says():
    """Gradients become small: v should decay by 1 - 0.999^100, and in bfloat16 it does not."""
    scales = np.repeat([1.0, 0.001], 100)

    def remains(**kinds):
        first, last = (run(optim.adam(Optim(**kinds)), scales[:n])[1].nu["w_D"] for n in (100, 200))
        return float((last.astype(jnp.float32) / first.astype(jnp.float32)).mean())

    np.testing.assert_allclose(remains(), 0.999**100, rtol=1e-3)
    assert remains(v_dtype="bfloat16") == 1
    assert remains(v_dtype="bfloat16", b2=0.95) < 0.1
