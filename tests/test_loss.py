"""nll_sum against log-softmax in float64: whole, in chunks, on meshes; and what it never holds."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax import loss
from medsjax.sharding import make_mesh

SPECS = (P("fsdp", None, None), P("tensor", "fsdp"), P("fsdp", None), P("fsdp", None))


def problem(B: int, T: int, D: int = 8, V: int = 50):
    """Hidden states, an output matrix, targets and a mask with about half the targets on.

    Logits vary by 3 or so, as a model's do: much larger ones cost float32 its millionth.
    """
    rng = np.random.default_rng(B * T)
    x, output = rng.standard_normal((B, T, D)), rng.standard_normal((V, D)) * (8 / D) ** 0.5
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


def value_and_grads():
    """A new jit each time: its cache is by function, and chunk sizes are read while tracing."""
    return jax.jit(jax.value_and_grad(lambda *a: loss.nll_sum(*a), argnums=(0, 1)))


def assert_equal_to_a_millionth(value, grads, expected):
    assert value.dtype == jnp.float32
    assert abs(float(value) / expected[0] - 1) < 1e-6
    for a, b in zip(grads, expected[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max(), rtol=0)


def largest_array(compiled) -> int:
    """Elements of the largest array a compiled program names, parts of fusions among them."""
    shapes = re.findall(r"\b(?:f32|bf16|f16|s32|u32|pred)\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_a_target_that_is_no_id_is_harmless_where_it_is_masked():
    """Also where the vocabulary is padded to the devices: its padding is no id either."""
    x, output, targets, mask = problem(4, 8, V=50)
    expected = reference(x, output, targets, mask)
    with jax.set_mesh(make_mesh(4, 2)):
        found = value_and_grads()(x, output, np.where(mask, targets, -1), mask)
    assert_equal_to_a_millionth(*found, expected)


@pytest.mark.parametrize(
    ("shape", "tokens", "logits"),
    [((3, 16), 1024, 2**26), ((3, 16), 12, 2**26), ((2, 12), 1024, 1), ((2, 7), 4, 2**26)],
    ids=["whole", "four chunks", "one token a chunk", "chunks that do not divide"],
)
def test_sum_and_gradients_equal_log_softmax(shape, tokens, logits, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_TOKENS", tokens)
    monkeypatch.setattr(loss, "CHUNK_LOGITS", logits)
    args = problem(*shape)
    value, grads = value_and_grads()(*args)
    expected = reference(*args)
    assert_equal_to_a_millionth(value, grads, expected)
    assert float(jax.jit(lambda *a: loss.nll_sum(*a))(*args)) == float(value)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_a_mesh_gives_the_same_and_holds_no_whole_matrix(shape, monkeypatch):
    """V = 516 divides by tensor, not by the devices; a matrix is far larger than anything else."""
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 2)
    args = problem(8, 5, D=256, V=516)
    mesh = make_mesh(*shape)
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(args, SPECS, strict=True)]
    with jax.set_mesh(mesh):
        compiled = value_and_grads().lower(*placed).compile()
        value, grads = jax.block_until_ready(compiled(*placed))
    assert_equal_to_a_millionth(value, grads, reference(*args))
    assert grads[1].addressable_shards[0].data.size == 516 * 256 / 8
    assert largest_array(compiled) < 516 * 256 / 6


def test_no_step_holds_all_logits_of_llama_3():
    """8 x 2048 tokens, 128,256 ids: no array of the program, and no sum of them, comes near."""
    B, T, D, V = 8, 2048, 16, 128256
    args = (
        jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16),
        jax.ShapeDtypeStruct((V, D), jnp.float32),
        jax.ShapeDtypeStruct((B, T), jnp.int32),
        jax.ShapeDtypeStruct((B, T), jnp.bool_),
    )
    compiled = value_and_grads().lower(*args).compile()
    assert largest_array(compiled) <= loss.CHUNK_LOGITS
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * B * T * V / 8


def test_the_matrix_gradient_is_summed_in_float32(monkeypatch):
    """bf16 activations, 512 chunks: a bf16 sum would be off by several percent."""
    monkeypatch.setattr(loss, "CHUNK_TOKENS", 8)
    x, output, targets, mask = problem(2, 2048)
    x, output = (jnp.asarray(a, jnp.bfloat16).astype(jnp.float32) for a in (x, output))
    _, grads = value_and_grads()(x.astype(jnp.bfloat16), output, targets, mask)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32]
    _, *expected = reference(np.asarray(x), np.asarray(output), targets, mask)
    for a, b in zip(grads, expected, strict=True):
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 4e-3 * np.linalg.norm(b)


def test_the_cotangent_scales_the_gradients():
    args = problem(2, 8)
    _, once = value_and_grads()(*args)
    thrice = jax.grad(lambda *a: 3 * loss.nll_sum(*a), argnums=(0, 1))(*args)
    for a, b in zip(thrice, once, strict=True):
        np.testing.assert_array_equal(a, 3 * b)


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
