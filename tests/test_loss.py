"""nll_sum against log-softmax in float64, whole and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medsjax import loss


def problem(B: int, T: int, D: int = 8, V: int = 50):
    """Hidden states, an output matrix, targets and a mask with about half the targets on."""
    rng = np.random.default_rng(B * T)
    x, output = rng.standard_normal((B, T, D)), rng.standard_normal((V, D))
    targets, mask = rng.integers(0, V, (B, T)), rng.random((B, T)) < 0.5
    return x.astype(np.float32), output.astype(np.float32), targets.astype(np.int32), mask


def reference(x, output, targets, mask):
    """The sum and its gradients by x and output, in float64."""
    x, output = x.astype(np.float64), output.astype(np.float64)
    logits = x @ output.T
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    one_hot = np.eye(output.shape[0])[targets]
    nll = -np.log((probs * one_hot).sum(-1))
    d_logits = (probs - one_hot) * mask[..., None]
    return (nll * mask).sum(), d_logits @ output, np.einsum("btv,btd->vd", d_logits, x)


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [((3, 16), 2**26), ((3, 16), 3 * 4 * 50), ((2, 12), 1), ((2, 7), 1)],
    ids=["whole", "four a chunk", "as small as it divides", "odd length"],
)
def test_sum_and_gradients_equal_log_softmax(shape, chunk, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk)
    x, output, targets, mask = problem(*shape)
    ours = jax.jit(jax.value_and_grad(loss.nll_sum, argnums=(0, 1)))
    value, grads = ours(x, output, targets, mask)
    expected, *expected_grads = reference(x, output, targets, mask)
    assert value.dtype == jnp.float32
    assert abs(float(value) / expected - 1) < 1e-6
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=0)


def test_chunks_bound_the_logits_that_live_at_once(monkeypatch):
    """The compiled step's scratch memory falls with the chunk."""

    def scratch(chunk):
        monkeypatch.setattr(loss, "CHUNK_LOGITS", chunk)
        step = jax.jit(jax.grad(lambda *a: loss.nll_sum(*a)))  # a new jit: its cache is by function
        return step.lower(*problem(2, 64, V=3000)).compile().memory_analysis().temp_size_in_bytes

    assert scratch(2**10) < scratch(2**26) / 8


def test_what_is_masked_does_not_count():
    x, output, targets, mask = problem(2, 8)
    other = np.where(mask, targets, (targets + 1) % 50)
    assert loss.nll_sum(x, output, targets, mask) == loss.nll_sum(x, output, other, mask)
    assert loss.nll_sum(x, output, targets, np.zeros_like(mask)) == 0


def test_large_logits_stay_finite():
    """The target at 1000 x the size of its rivals: no overflow, a loss near zero."""
    x, output = np.eye(4, dtype=np.float32)[None] * 1000, np.eye(4, dtype=np.float32)
    targets = np.arange(4, dtype=np.int32)[None]
    assert float(loss.nll_sum(x, output, targets, np.ones((1, 4)))) == 0.0
    wrong = loss.nll_sum(x, output, (targets + 1) % 4, np.ones((1, 4)))
    assert float(wrong) == 4000.0
