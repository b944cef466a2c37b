"""The model against transformers' stored logits, and what its segments and positions promise."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from medsjax import convert
from medsjax.loss import nll_sum
from medsjax.model import Dims, RopeScaling, rope_frequencies
from tests import make_references, tiny

TOKENS = tiny.tokens(1, 20)


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(make_references.FOLDER / "logits.npz") as file:
        return dict(file)


@jax.jit
def forward(model, tokens_BT, positions_BT=None, segments_BT=None):
    return model(tokens_BT, positions_BT, segments_BT)


def apart(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_equal_transformers(case, models):
    for kind, positions in make_references.positions(TOKENS.shape[1]).items():
        logits = forward(models(case), TOKENS, positions)
        assert logits.dtype == jnp.float32
        assert apart(logits, stored()[f"{case}/{kind}"]) < 1e-4, kind


def test_default_positions_and_segments_are_one_text_from_zero(models):
    assert apart(forward(models("llama3"), TOKENS), stored()["llama3/plain"]) < 1e-4


SETTINGS = {
    "rope_theta": {"rope_theta": 10000.0},
    "rms_norm_eps": {"rms_norm_eps": 1e-4},
    "no scaling": {"rope_scaling": None},
    "old linear scaling": {"rope_scaling": {"type": "linear", "factor": 8.0}},
} | {
    key: {"rope_scaling": {**tiny.SCALING, key: value}}
    for key, value in {
        "factor": 32.0,
        "low_freq_factor": 0.2,
        "high_freq_factor": 16.0,
        "original_max_position_embeddings": 512,
    }.items()
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_numeric_setting_reaches_its_place(name, tmp_path, models):
    """With one value of config.json changed, the same weights give other logits."""
    folder = tiny.write(tmp_path / "m", **{**tiny.CASES["llama3.1"], **SETTINGS[name]})
    changed = forward(tiny.load(folder), TOKENS, make_references.positions(20)["stretched"])
    assert apart(changed, stored()["llama3.1/stretched"]) > 1e-2


def test_both_spellings_of_ropes_settings_mean_the_same(tmp_path, models):
    new = {"rope_parameters": {**tiny.SCALING, "rope_theta": 500000.0}, "head_dim": 16}
    folder = tiny.write(tmp_path / "m", rope_theta=None, rope_scaling=None, **new)
    assert tiny.load(folder).dims == models("llama3.1").dims


def test_llama_31_frequencies_follow_their_formula():
    """The published rule in float64: keep short waves, slow long ones, blend by wavelength between.

    Llama 3.1's own numbers, for which all three kinds occur.
    """
    scaling = RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192
    )
    sides = dict.fromkeys(("V", "D", "F", "L", "N", "K"), 1)
    dims = Dims(**sides, H=128, rope_theta=5e5, rope_scaling=scaling, norm_eps=1e-5, tied=False)
    expected, kinds = [], set()
    for i in range(0, 128, 2):
        frequency = 500000.0 ** -(i / 128)
        wavelength = 2 * np.pi / frequency
        if wavelength > 8192 / 1.0:
            kinds.add("slow")
            expected.append(frequency / 8)
        elif wavelength < 8192 / 4.0:
            kinds.add("keep")
            expected.append(frequency)
        else:
            kinds.add("blend")
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * frequency / 8 + smooth * frequency)
    assert kinds == {"slow", "keep", "blend"}
    np.testing.assert_allclose(rope_frequencies(dims), expected, rtol=1e-6)


# Two rows of 40 that pack texts of these lengths; what is left is padding.
PACKED = [[7, 1, 20], [18, 22]]


def pack(texts: list[list[np.ndarray]], stretch: int, length: int = 40):
    """(tokens, positions, segments) of rows of texts; positions restart, `stretch` apart."""
    rows = []
    for row in texts:
        pad = np.zeros(length - sum(map(len, row)), np.int32)
        positions = [np.arange(len(t)) * stretch for t in row]
        segments = [np.full(len(t), i + 1) for i, t in enumerate(row)]
        rows.append([np.concatenate([*parts, pad]) for parts in (row, positions, segments)])
    return [np.stack(part).astype(np.int32) for part in zip(*rows, strict=True)]


def texts_of(lengths: list[list[int]]) -> list[list[np.ndarray]]:
    return [[tiny.tokens(1, n, seed=n)[0] for n in row] for row in lengths]


@pytest.mark.parametrize("stretch", [1, 37])
def test_packed_logits_equal_unpacked(stretch, models):
    model, texts = models("llama3.1"), texts_of(PACKED)
    tokens, positions, segments = pack(texts, stretch)
    packed = forward(model, tokens, positions, segments)
    for b, row in enumerate(texts):
        at = 0
        for text in row:
            alone = forward(model, *pack([[text]], stretch))
            assert apart(packed[b, at : at + len(text)], alone[0, : len(text)]) < 1e-5
            at += len(text)


def test_packed_loss_and_gradients_equal_unpacked(models):
    """Also with each layer recomputed backward (packed) or kept (unpacked)."""

    def loss(model, tokens, positions, segments, remat):
        """Sum over all texts of the loss of their tokens but the first."""
        x_BTD = model.hidden(tokens, positions, segments, remat=remat)
        mask = (segments > 0) & (segments == jnp.roll(segments, -1, axis=1))
        return nll_sum(x_BTD, model.output_VD, jnp.roll(tokens, -1, axis=1), mask)

    texts = texts_of(PACKED)
    alone = [[text] for row in texts for text in row]
    model, both = models("llama3.1"), []
    for rows, remat in ((texts, "full"), (alone, "none")):
        grad = jax.jit(jax.value_and_grad(loss), static_argnames="remat")
        both.append(grad(model, *pack(rows, 3), remat=remat))
    (packed, packed_grads), (unpacked, unpacked_grads) = both
    assert abs(float(packed) / float(unpacked) - 1) < 1e-5
    a, b = ravel_pytree(packed_grads)[0], ravel_pytree(unpacked_grads)[0]
    assert apart(a, b) < 1e-5 * float(jnp.abs(b).max())


def test_positions_are_used_but_only_their_differences(models):
    """Rope is relative: a shift changes nothing, a stretch does."""
    model, positions = models("llama3.1"), np.arange(20)[None]
    plain = forward(model, TOKENS, positions)
    assert apart(forward(model, TOKENS, positions + 1000), plain) < 1e-3
    assert apart(forward(model, TOKENS, positions * 37), plain) > 1e-2


def test_no_token_sees_the_future_another_text_or_padding(models):
    """Bit for bit: one changed token moves the logits of its own text from there on, alone."""
    model = models("llama3")
    tokens, positions, segments = pack(texts_of(PACKED), 1)
    before = np.asarray(forward(model, tokens, positions, segments))
    for row, at in [(0, 10), (0, 7), (0, 35), (1, 17)]:
        changed = tokens.copy()
        changed[row, at] = (changed[row, at] + 1) % tiny.VOCAB
        after = np.asarray(forward(model, changed, positions, segments))
        moved = (before != after).any(-1)
        expected = np.zeros_like(moved)
        expected[row, at:] = segments[row, at:] == segments[row, at]
        np.testing.assert_array_equal(moved, expected)


def test_bf16_compute_keeps_the_float32_master(tiny_folder, models):
    """Activations in bf16 move the logits a little; parameters and logits stay float32."""
    model, _ = convert.load(tiny_folder, dtype="float32", compute_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    assert model.embed(TOKENS).dtype == jnp.bfloat16
    logits = forward(model, TOKENS)
    assert logits.dtype == jnp.float32
    assert 1e-4 < apart(logits, stored()["llama3/plain"]) < 0.2


def test_only_untied_models_hold_an_output_matrix(models):
    for case in tiny.CASES:
        names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(models(case)))}
        assert ("unembed_VD" in names) == (case != "llama3.2")


def test_references_name_what_is_tested():
    """A case added to tests/tiny.py needs python -m tests.make_references."""
    assert {name.split("/")[0] for name in stored()} == set(tiny.CASES)
    assert set(json.loads((make_references.FOLDER / "greedy.json").read_text())) == set(tiny.CASES)
