"""attend() against full matrices in float64, forward and backward, and what must stay unseen.

The TPU's kernel runs interpreted. cuDNN's is stood in for by what its interface promises, driven by
the tables it is given; that it compiles is asserted for machines that are not here.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from medsjax import attention
from medsjax.attention import BLOCK, SEGMENTS, attend
from medsjax.errors import UserError
from medsjax.sharding import AXES, make_mesh

JITTED = jax.jit(attend)
TPU = ("TPU v5 lite", "tpu", "tpu")


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


def assert_equal_to_full_matrices(attend, T: int, K: int, G: int, H: int, atol=2e-5):
    q, k, v, cotangent, segments = random_inputs(T, 2, T, K, G, H)

    @jax.jit
    def ours(q, k, v):
        out, back = jax.vjp(lambda q, k, v: attend(q, k, v, segments), q, k, v)
        return out, *back(cotangent)

    expected = naive(q, k, v, segments, cotangent)
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours(q, k, v), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("T", "K", "G", "H"),
    [(1, 1, 1, 8), (9, 2, 1, 64), (BLOCK, 1, 4, 128), (BLOCK + 1, 2, 2, 64), (301, 2, 3, 8)],
)
def test_equals_full_matrices_forward_and_backward(T, K, G, H):
    assert_equal_to_full_matrices(attend, T, K, G, H)


@pytest.mark.parametrize(("T", "K", "G", "H"), [(BLOCK, 1, 4, 64), (301, 2, 2, 128)])
def test_splash_equals_full_matrices(T, K, G, H):
    kernel = partial(attention.splash, interpret=True)
    assert_equal_to_full_matrices(partial(attention._padded, kernel), T, K, G, H)


def test_splash_on_a_mesh(monkeypatch):
    """Rows over fsdp, heads over tensor: each device runs the kernel on its own."""
    monkeypatch.setattr(
        attention, "_kernel", lambda q, k: partial(attention.splash, interpret=True)
    )
    with jax.set_mesh(make_mesh(1, 2, jax.devices()[:2])):
        assert_equal_to_full_matrices(attend, 150, 2, 2, 64)


class FaultyBinding:
    """JAX's packed cuDNN as its interface is documented; with the fault of jax < 0.11.1."""

    class MaskType:
        PADDING_CAUSAL = "padding, causal"

    def __init__(self):
        self.calls = []

    def check_compute_capability(self, _):
        raise AssertionError("this machine's GPU is asked")

    def dot_product_attention(self, q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, **kind):
        assert self.check_compute_capability("9.0")
        assert kind["mask_type"] == self.MaskType.PADDING_CAUSAL
        assert {a.dtype.name for a in (q_seqlen, kv_seqlen, q_offsets, kv_offsets)} == {"int32"}
        self.calls.append((q.shape[2], k.shape[2]))
        if jax.__version_info__ < (0, 11, 1) and q.shape[2] != k.shape[2]:
            return jnp.full_like(q, jnp.nan)
        lengths, starts = q_seqlen[..., None], q_offsets[:, :-1, None]
        position = jnp.arange(q.shape[1])
        inside = (starts >= 0) & (position >= starts) & (position < starts + lengths)  # B, M, T
        same = (inside[:, :, :, None] & inside[:, :, None]).any(1)
        return jax.nn.dot_product_attention(
            *(q, k, v), mask=same[:, None], is_causal=True, scale=kind["scale"]
        )


@pytest.fixture
def binding(monkeypatch):
    """cuDNN's stand-ins: the one above, and XLA for JAX's public name."""
    binding, public = FaultyBinding(), jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "_fused", lambda: binding)
    as_xla = lambda *a, implementation=None, **kw: public(*a, implementation="xla", **kw)  # noqa: E731
    monkeypatch.setattr(jax.nn, "dot_product_attention", as_xla)
    return binding


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 11, 1)])
@pytest.mark.parametrize(("T", "K", "G", "H"), [(BLOCK, 1, 4, 64), (301, 2, 2, 128)])
def test_cudnn_equals_full_matrices(T, K, G, H, version, binding, monkeypatch):
    """K and V are repeated to the query heads where jax miscounts their offsets, and only there."""
    monkeypatch.setattr(jax, "__version_info__", version)
    assert_equal_to_full_matrices(partial(attention._padded, attention.cudnn), T, K, G, H)
    assert set(binding.calls) == {(K * G, K * G if version == (0, 10, 2) else K)}


def test_cudnn_takes_the_mask_where_a_row_has_too_many_segments(binding):
    q, k, v, _, _ = random_inputs(5, 2, 256, 1, 2, 64)
    many = np.stack([np.arange(256) // 4 + 1, np.ones(256, int)]).astype(np.int32)
    few = np.minimum(many, SEGMENTS)
    for segments in (many, few):
        out = jax.jit(attention.cudnn)(q, k, v, segments)
        expected = naive(q, k, v, segments, q)[0]
        np.testing.assert_allclose(out, expected, atol=2e-5, rtol=0)


def test_segment_table():
    segments = np.array([[1, 1, 2, 2, 2, 0], [3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0]])
    lengths, starts, fit = attention.segment_table(segments, 3)
    assert lengths.tolist() == [[2, 3, 1], [6, -1, -1], [6, -1, -1]]
    assert starts.tolist() == [[0, 2, 5, -1], [0, -1, -1, -1], [0, -1, -1, -1]]
    assert fit
    assert not attention.segment_table(segments, 2)[2]


def program_for(kind: str, platform: str, lowering: str, T=300, S=300, H=64, kept=None):
    """Text of a gradient's program for a 2x2 mesh of devices not here; all but `kept` is remade."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    mesh = AbstractMesh((2, 2), AXES, axis_types=(AxisType.Auto,) * 2, abstract_device=device)
    q, k = (jax.ShapeDtypeStruct((4, n, h, H), jnp.bfloat16) for n, h in ((T, 8), (S, 2)))
    segments = jax.ShapeDtypeStruct((4, S), jnp.int32)
    with jax.sharding.use_abstract_mesh(mesh):
        attended = attend
        if kept is not None:
            policy = jax.checkpoint_policies.save_only_these_names(*kept)
            attended = jax.checkpoint(attend, policy=policy)
        loss = lambda *a: attended(*a).astype(jnp.float32).sum()  # noqa: E731
        grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
        return grad.trace(q, k, k, segments).lower(lowering_platforms=(lowering,)).as_text()


def calls_compiled_for(*args, **shapes) -> set[str]:
    return set(re.findall(r"custom_call @([\w$]+)", program_for(*args, **shapes)))


def test_the_kernel_follows_the_mesh_not_this_machine(monkeypatch):
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)  # there is none here
    fmha = {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
    packed = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert calls_compiled_for(*TPU) == {"tpu_custom_call"}
    assert calls_compiled_for("TPU v4", "tpu", "tpu", H=128) == {"tpu_custom_call"}
    assert calls_compiled_for("NVIDIA H200", "gpu", "cuda") == fmha | packed
    assert calls_compiled_for("NVIDIA A100-SXM4-80GB", "gpu", "cuda") == fmha
    assert calls_compiled_for("cpu", "cpu", "cpu") == set()


@pytest.mark.parametrize("shapes", [{"S": 428}, {"T": 100, "S": 100}, {"H": 80}])
def test_what_no_kernel_takes_is_plain(shapes):
    """A prefix before the queries, a row shorter than a block, an unusual head."""
    assert calls_compiled_for(*TPU, **shapes) == set()


def test_keeping_the_context_spares_the_kernel_a_second_run():
    runs = [program_for(*TPU, kept=kept).count("splash_mha_fwd") for kept in ((), ("context",))]
    assert runs == [2, 1]


@pytest.mark.parametrize("kind", ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"])
def test_on_a_gpu_no_context_is_kept_in_vain(kind, monkeypatch):
    """cuDNN runs again all the same, for the sums that its way back needs."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    nothing, context = (program_for(kind, "gpu", "cuda", kept=k) for k in ((), ("context",)))
    assert nothing == context


def test_check_refuses_a_kernel_that_is_wrong(monkeypatch):
    """Right for one segment a row or equal heads, it would not be found out by its loss."""
    right = attention.plain
    unsegmented = lambda q, k, v, segments: right(q, k, v, jnp.ones_like(segments))  # noqa: E731
    misgrouped = lambda q, k, v, segments: right(q, k[:, :, ::-1], v, segments)  # noqa: E731
    monkeypatch.setattr(attention, "_kernel", lambda q, k: right)
    attention.check(4, 2, 64, "float32")
    for wrong in (unsegmented, misgrouped):
        monkeypatch.setattr(attention, "_kernel", lambda q, k, wrong=wrong: wrong)
        with pytest.raises(UserError, match=r"cpu: its attention kernel in jax .*% off the plain"):
            attention.check(4, 2, 64, "float32")


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs a TPU or a GPU")
def test_this_machines_kernel_equals_full_matrices():
    q, k, v, cotangent, segments = random_inputs(7, 4, 1000, 2, 4, 128)
    low = [jnp.asarray(a, jnp.bfloat16) for a in (q, k, v, cotangent)]
    with jax.set_mesh(make_mesh(1, 1, jax.devices()[:1])):
        out, back = jax.jit(lambda *qkv: jax.vjp(lambda *a: attend(*a, segments), *qkv))(*low[:3])
        ours = (out, *back(low[3]))
    rounded = [np.asarray(a, np.float32) for a in low]
    for a, b in zip(ours, naive(*rounded[:3], segments, rounded[3]), strict=True):
        error = np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)
        assert error < 2e-2


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
