"""attend() against full matrices in float64, forward and backward, and what must stay unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medsjax.attention import BLOCK, attend

JITTED = jax.jit(attend)


def allowed(segments_BT: np.ndarray) -> np.ndarray:
    """bool[B, T, S]: may token t see token s?"""
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same & np.tril(np.ones(same.shape[1:], bool))


def naive(q, k, v, segments, cotangent):
    """Attention over full matrices and its gradients by hand, float64: (out, dq, dk, dv)."""
    G, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5
    q, k, v, cotangent = (a.astype(np.float64) for a in (q, k, v, cotangent))
    k_heads, v_heads = (np.repeat(a, G, axis=2) for a in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k_heads) * scale
    scores = np.where(allowed(segments)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("bthd,bshd->bhts", cotangent, v_heads)
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) * scale
    dk = np.einsum("bhts,bthd->bshd", d_scores, q)
    dv = np.einsum("bhts,bthd->bshd", weights, cotangent)
    grouped = (*k.shape[:3], G, k.shape[3])
    return (
        np.einsum("bhts,bshd->bthd", weights, v_heads),
        np.einsum("bhts,bshd->bthd", d_scores, k_heads),
        *(d.reshape(grouped).sum(3) for d in (dk, dv)),
    )


def random_inputs(seed: int, B: int, T: int, K: int, G: int, H: int):
    """q, k, v, a cotangent, and segments 1, 2, … of random lengths with padding (0) at the end."""
    rng = np.random.default_rng(seed)
    q, c = rng.standard_normal((2, B, T, K * G, H)).astype(np.float32)
    k, v = rng.standard_normal((2, B, T, K, H)).astype(np.float32)
    segments = 1 + np.cumsum(rng.random((B, T)) < 4 / T, axis=1).astype(np.int32)
    segments[:, T - T // 8 :] = 0
    return q, k, v, c, segments


@pytest.mark.parametrize(
    ("T", "K", "G"), [(1, 1, 1), (9, 2, 1), (BLOCK, 1, 4), (BLOCK + 1, 2, 2), (301, 2, 3)]
)
def test_equals_full_matrices_forward_and_backward(T, K, G):
    q, k, v, cotangent, segments = random_inputs(T, 2, T, K, G, 8)

    @jax.jit
    def ours(q, k, v):
        out, back = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        return out, *back(cotangent)

    expected = naive(q, k, v, segments, cotangent)
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours(q, k, v), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=0, err_msg=name)


def test_gradients_are_exactly_zero_where_attention_is_not_allowed():
    """Output t depends on v and k of the allowed s alone, across a block's border too."""
    T, H = BLOCK + 12, 4
    q, k, v, _, _ = random_inputs(0, 1, T, 1, 2, H)
    segments = np.repeat([[1, 2, 0]], [30, T - 36, 6], axis=1)

    @jax.jit
    @jax.vmap
    def sources(one_hot_T):
        """For one output t: which s its first head's sum has a gradient in, for k and v."""
        _, back = jax.vjp(lambda k, v: attend(q, k, v, segments)[0, :, 0].sum(-1), k, v)
        return [(d[0, :, 0] != 0).any(-1) for d in back(one_hot_T)]

    from_k, from_v = map(np.asarray, sources(jnp.eye(T)))
    may = allowed(segments)[0]
    np.testing.assert_array_equal(from_v, may)
    # A token that sees only itself has weight one, whatever its key.
    np.testing.assert_array_equal(from_k, may & (may.sum(1, keepdims=True) > 1))


def test_a_missing_number_elsewhere_does_not_spread():
    """NaN in another segment's query or key stays there."""
    q, k, v, _, segments = random_inputs(1, 1, 40, 1, 1, 4)
    clean = np.asarray(JITTED(q, k, v, segments))
    other = segments[0] != 1
    q[0, other], k[0, other] = np.nan, np.nan
    np.testing.assert_array_equal(
        np.asarray(JITTED(q, k, v, segments))[0, ~other], clean[0, ~other]
    )


def test_bf16_inputs_keep_their_dtype_and_float32_scores():
    q, k, v, cotangent, segments = random_inputs(2, 1, 200, 2, 2, 8)
    low = [jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)]
    out = JITTED(*low, segments)
    assert out.dtype == jnp.bfloat16
    rounded = [np.asarray(a, np.float32) for a in low]
    expected = naive(*rounded, segments, cotangent)[0]
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, atol=3e-2)
