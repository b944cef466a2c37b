"""Greedy against the whole model on a growing text; batches, stops, limits, sampling, shapes."""

import json
import re
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

from medsjax import checkpoint, convert, decoding, sampler
from medsjax.sharding import make_mesh
from tests import make_references, tiny

LENGTHS = (1, 5, 33, 12, 40, 2)
PROMPTS = [tiny.tokens(1, n, seed=n)[0].tolist() for n in LENGTHS]
LENGTH = 64  # of the reference's rows


@jax.jit
def next_logits(model, tokens_1T, n):
    """float32[V] after the first n tokens; what follows is padding."""
    segments = (jnp.arange(LENGTH) < n).astype(jnp.int32)[None]
    return model(tokens_1T, None, segments)[0, n - 1]


def plain_greedy(model, prompt, stops, limit) -> list[int]:
    """A forward of the whole text for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        row = np.zeros((1, LENGTH), np.int32)
        row[0, : len(ids)] = ids
        best = int(next_logits(model, row, len(ids)).argmax())
        if best in stops:
            break
        ids.append(best)
    return ids[len(prompt) :]


def stream(model, tokenizer, prompts, limits, **settings) -> list[list[int]]:
    """Generated ids in the prompts' order."""
    limits = [limits] * len(prompts) if isinstance(limits, int) else limits
    found = dict(sampler.stream(model, tokenizer, prompts, limits, **settings))
    assert len(found) == len(prompts)
    return [found[i] for i in range(len(prompts))]


@pytest.fixture(scope="module")
def tokenizer(tiny_loaded):
    """tiny's, with no stop id that greedy text reaches by chance."""
    return replace(tiny_loaded[1], stop_ids=())


@pytest.fixture(scope="module")
def expected(tiny_loaded):
    """The plain reference of PROMPTS[i], 24 tokens, made when asked for."""
    return cache(lambda i: plain_greedy(tiny_loaded[0], PROMPTS[i], (), 24))


@pytest.mark.parametrize("batch_size", [64, 2])
def test_greedy_equals_whole_forwards_whatever_the_batch(
    batch_size, tiny_loaded, tokenizer, expected
):
    """Prompts of 1 to 40 tokens side by side, beside others or almost alone."""
    got = stream(tiny_loaded[0], tokenizer, PROMPTS, 24, batch_size=batch_size)
    assert got == [expected(i) for i in range(len(PROMPTS))]


def test_greedy_on_a_mesh(tiny_folder, tokenizer, expected):
    """Three prompts on eight devices, heads split too: the rows are filled up."""
    model, _ = convert.load(tiny_folder, make_mesh(4, 2), "float32")
    assert stream(model, tokenizer, PROMPTS[:3], 24) == [expected(i) for i in range(3)]


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory):
    """(folder, its tokenizer, PROMPTS' greedy ids on one device) of a model with 8 kv heads."""
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16}
    folder = tiny.write(tmp_path_factory.mktemp("eight") / "m", **heads)
    model, tokenizer = convert.load(folder, dtype="float32")
    tokenizer = replace(tokenizer, stop_ids=())
    return folder, tokenizer, stream(model, tokenizer, PROMPTS, 24)


@pytest.mark.parametrize("shape", [(1, 8), (2, 4)])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.9, "seed": 5}])
def test_heads_over_eight_devices(shape, settings, eight_heads):
    folder, tokenizer, greedy = eight_heads
    whole, _ = convert.load(folder, dtype="float32")
    model, _ = convert.load(folder, make_mesh(*shape), "float32")
    model.unstack()
    wanted = stream(whole, tokenizer, PROMPTS, 24, **settings) if settings else greedy
    assert stream(model, tokenizer, PROMPTS, 24, **settings) == wanted


def test_decoding_over_tensor_moves_activations_alone(eight_heads):
    """No weight and no cache is gathered: what is sent in a step is smaller than either."""
    folder, *_ = eight_heads
    mesh, B, S = make_mesh(1, 8), 4, 64
    model, _ = convert.load(folder, mesh, "float32")
    model.unstack()
    dims, f32 = model.dims, jnp.float32
    lies = NamedSharding(mesh, P(*decoding.CACHE))
    kv = jax.ShapeDtypeStruct((B, dims.K, S, dims.H), f32, sharding=lies)
    state = (np.zeros((B, dims.V), np.float32), np.zeros(B, bool), [(kv, kv)] * dims.L)
    rows = (np.zeros(B, np.int32), np.full(B, 8, np.int32), np.zeros(B, np.uint32))
    settings = (np.float32(1), np.float32(1), np.uint32(0))
    args = (model, list(model.blocks), state, (np.int32(0), np.int32(8), np.int32(0)), rows)
    kinds = {"greedy": True, "steps": 8}
    with jax.set_mesh(mesh):
        lowered = decoding.decode.lower(*args, np.zeros(0, np.int32), settings, **kinds)
    text = lowered.compile().as_text()
    moved = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (all-\w+|collective-\w+)", text)
    sizes = {(name, np.prod([int(n) for n in sides.split(",") if n])) for sides, name in moved}
    weight, cache = dims.D * dims.K * dims.H, B * dims.K * S * dims.H
    assert ("all-reduce", B * dims.D) in sizes and max(n for _, n in sizes) < min(weight, cache)


def test_a_model_held_layer_by_layer_is_the_same_model(
    tiny_folder, tiny_loaded, tokenizer, tmp_path
):
    stacked, _ = tiny_loaded
    model, opened = convert.load(tiny_folder, dtype="float32")
    model.unstack()
    model.unstack()  # again changes nothing
    assert len(model.blocks) == model.dims.L
    assert checkpoint.fingerprint(model) == checkpoint.fingerprint(stacked)
    tokens = tiny.tokens(2, 40, seed=1)
    np.testing.assert_allclose(model(tokens), stacked(tokens), atol=1e-5)
    convert.save(model, opened, tmp_path / "out")
    ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "out", tiny_folder))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-40},
        {"temperature": 1e-30},
        {"temperature": 1e-6, "top_p": 1e-50},
        {"temperature": 5.0, "top_p": 1e-50},
    ],
)
def test_at_the_edges_sampling_is_greedy(settings, tiny_loaded, tokenizer, expected):
    """Some of these are 0 as float32, and logits over them not finite."""
    got = stream(tiny_loaded[0], tokenizer, PROMPTS, 24, **settings)
    assert got == [expected(i) for i in range(len(PROMPTS))]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"max_new_tokens": [3, 3]}, "max_new_tokens: 2 numbers for 1 prompts"),
        ({"mesh": make_mesh()}, "mesh: .* is not the model's"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says, tiny_loaded, tokenizer):
    settings = {"max_new_tokens": np.int64(1)} | settings
    with pytest.raises(ValueError, match=says):
        sampler.generate(tiny_loaded[0], tokenizer, [[1]], **settings)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 3}])
def test_a_cache_that_grows_and_rows_that_leave_change_nothing(
    settings, tiny_loaded, tokenizer, monkeypatch
):
    """Stop ids and limits that end rows at different times; caches of 8 new tokens at a time."""
    model = tiny_loaded[0]
    plain = stream(model, tokenizer, PROMPTS, 24, **settings)
    stops = (plain[1][4], plain[3][9], plain[4][15])
    tokenizer = replace(tokenizer, stop_ids=stops)
    limits = [24, 0, 9, 24, 24, 7]
    wanted = stream(model, tokenizer, PROMPTS, limits, **settings)
    assert len(set(map(len, wanted))) > 3
    rows = []
    decode = decoding.decode
    monkeypatch.setattr(sampler, "CHUNK", 8)
    monkeypatch.setattr(
        decoding, "decode", lambda *a, **k: rows.append(len(a[2][0])) or decode(*a, **k)
    )
    assert stream(model, tokenizer, PROMPTS, limits, **settings) == wanted
    assert len(rows) > 2 and rows == sorted(rows, reverse=True) and rows[-1] < rows[0]


@pytest.mark.parametrize("device_mesh", [None, pytest.param((4, 2), marks=pytest.mark.slow)])
def test_what_prompts_share_is_computed_once_and_changes_nothing(
    device_mesh, tiny_loaded, tiny_folder, tokenizer, monkeypatch
):
    """Two groups of prompts that begin alike, and one prompt that begins like no other."""
    model = tiny_loaded[0]
    if device_mesh:
        model, _ = convert.load(tiny_folder, make_mesh(*device_mesh), "float32")
    shots = [tiny.tokens(1, n, seed=n)[0].tolist() for n in (48, 70)]
    prompts = [shot + prompt for prompt in PROMPTS for shot in shots] + [PROMPTS[2]]
    groups = [0, 1] * len(PROMPTS) + [2]
    plain = stream(model, tokenizer, prompts, 24)
    calls = []
    prefix_kv = decoding.prefix_kv
    monkeypatch.setattr(sampler, "SHORTEST_PREFIX", 32)
    monkeypatch.setattr(decoding, "prefix_kv", lambda *a: calls.append(len(a[2])) or prefix_kv(*a))
    assert stream(model, tokenizer, prompts, 24, groups=groups, batch_size=4) == plain
    assert calls == [48, 64]  # each once, cut to a compiled size


def test_out_of_memory_halves_the_batch(tiny_loaded, tokenizer, expected, monkeypatch, capsys):
    tried = []
    decode = decoding.decode

    def small_memory(model, blocks, state, *rest, **settings):
        tried.append(len(state[0]))
        if tried[-1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
        return decode(model, blocks, state, *rest, **settings)

    monkeypatch.setattr(decoding, "decode", small_memory)
    got = stream(tiny_loaded[0], tokenizer, PROMPTS, 24)
    assert got == [expected(i) for i in range(len(PROMPTS))]
    assert tried[:5] == [32, 16, 8, 4, 2] and set(tried[5:]) == {2}
    assert "out of memory" in capsys.readouterr().out


def test_other_errors_of_the_device_are_not_swallowed(tiny_loaded, tokenizer, monkeypatch):
    def broken(*args, **settings):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(decoding, "decode", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        stream(tiny_loaded[0], tokenizer, PROMPTS, 24)


@pytest.mark.parametrize("case", ["llama2", "llama3.1", "llama3.2"])
def test_greedy_equals_transformers(case, models, tokenizer):
    stored = json.loads((make_references.FOLDER / "greedy.json").read_text())[case]
    tokenizer = replace(tokenizer, stop_ids=(tiny.END,))
    limit = make_references.NEW_TOKENS
    assert stream(models(case), tokenizer, make_references.PROMPTS, limit) == stored


def test_an_answer_ends_before_the_first_of_any_stop_id(tiny_loaded, tokenizer, expected):
    stops = (expected(1)[4], expected(3)[9])
    got = stream(tiny_loaded[0], replace(tokenizer, stop_ids=stops), PROMPTS, 24)
    for i, ids in enumerate(got):
        whole = expected(i)
        end = min([whole.index(s) for s in stops if s in whole], default=24)
        assert ids == whole[:end]
    assert len(got[1]) <= 4 and len(got[3]) <= 9


def test_each_prompt_has_its_own_limit(tiny_loaded, tokenizer, expected):
    limits = [24, 0, 3, 1, 24, 7]
    got = stream(tiny_loaded[0], tokenizer, PROMPTS, limits)
    assert got == [expected(i)[:n] for i, n in enumerate(limits)]


def test_generate_takes_text_or_ids(tiny_loaded, tokenizer, expected):
    """Text gets one begin-of-text and stays text; ids are taken as they are."""
    model, _ = tiny_loaded
    text = "the <|eot_id|> answer"
    ids = [tiny.BEGIN, *tokenizer.encode(text)]
    by_text, by_ids, other = sampler.generate(model, tokenizer, [text, ids, PROMPTS[1]], [9, 9, 24])
    assert by_text == by_ids == tokenizer.decode(plain_greedy(model, ids, (), 9))
    assert other == tokenizer.decode(expected(1))
    assert sampler.generate(model, tokenizer, [], 9) == []


def test_sampling_depends_on_seed_and_prompt_not_on_the_batch(tiny_loaded, tokenizer):
    settings = {"temperature": 1.0, "top_p": 0.9}
    run = partial(stream, tiny_loaded[0], tokenizer, PROMPTS, 24, **settings)
    together = run(seed=3)
    assert run(seed=3) == together == run(seed=3, batch_size=2)
    assert all(a != b for a, b in zip(run(seed=4), together, strict=True))
    same = stream(tiny_loaded[0], tokenizer, [PROMPTS[4]] * 4, 24, **settings)
    assert len(set(map(tuple, same))) == 4, "equal prompts get texts of their own"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.5)])
def test_sampled_tokens_follow_the_nucleus(temperature, top_p, tiny_loaded, tokenizer):
    """First tokens of 4096 draws against the distribution, cut to the likeliest mass of top_p."""
    model, n = tiny_loaded[0], 4096
    row = np.zeros((1, LENGTH), np.int32)
    row[0, : len(PROMPTS[1])] = PROMPTS[1]
    logits = np.asarray(next_logits(model, row, len(PROMPTS[1])), np.float64) / temperature
    probs = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    ranked = np.argsort(-probs)
    kept = ranked[: int(np.searchsorted(np.cumsum(probs[ranked]), top_p)) + 1]
    nucleus = np.zeros_like(probs)
    nucleus[kept] = probs[kept] / probs[kept].sum()
    settings = {"temperature": temperature, "top_p": top_p, "batch_size": n}
    drawn = stream(model, tokenizer, [PROMPTS[1]] * n, 1, **settings)
    counts = np.bincount(np.concatenate(drawn), minlength=len(probs))
    assert not counts[nucleus == 0].any()
    likely = nucleus * n > 10
    sigmas = (counts - nucleus * n)[likely] / np.sqrt(nucleus * (1 - nucleus) * n)[likely]
    assert likely.sum() > 10 and np.abs(sigmas).max() < 4


def test_low_temperature_is_greedy(tiny_loaded, tokenizer, expected):
    got = stream(tiny_loaded[0], tokenizer, PROMPTS, 24, temperature=1e-4)
    assert got == [expected(i) for i in range(len(PROMPTS))]


def test_few_shapes_are_compiled(tiny_loaded, tokenizer):
    """Thirty batches of all lengths up to 48 and limits up to 32: two prompt sizes."""
    model, _ = tiny_loaded
    decoding._layer.clear_cache()
    decoding.decode.clear_cache()
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = rng.integers(1, 49, 2)
        prompts = [tiny.tokens(1, n)[0].tolist() for n in lengths]
        stream(model, tokenizer, prompts, [1, int(rng.integers(2, 33))])
    assert decoding._layer._cache_size() <= 2
    assert decoding.decode._cache_size() <= 2
    assert len([s for s in sampler.SIZES if s <= 2048]) <= 13


def test_the_callers_code_runs_outside_the_samplers_mesh(tiny_loaded, tokenizer):
    outputs = sampler.stream(tiny_loaded[0], tokenizer, PROMPTS[:2], [1, 1])
    next(outputs)
    assert jax.sharding.get_abstract_mesh().empty


@pytest.mark.parametrize("prompt", [[], [-1], [tiny.VOCAB]])
def test_prompts_without_ids_or_beyond_the_vocabulary_are_refused(prompt, tiny_loaded, tokenizer):
    with pytest.raises(ValueError, match="prompt 1: needs at least one id"):
        stream(tiny_loaded[0], tokenizer, [[1], prompt], 4)


def test_stories260k_tells_its_authors_text(realdata):
    """A trained model's greedy 200 tokens, from begin-of-text alone, beside a longer prompt."""
    folder = realdata / "models" / "stories260K"
    golden = json.loads((folder / "hf" / "golden_greedy.json").read_text())
    model, tokenizer = convert.load(
        folder / "hf", dtype="float32", tokenizer=str(folder / "tok512.bin")
    )
    ids, cut = golden["ids"], 50
    texts = sampler.generate(model, tokenizer, ["", ids[:cut]], [len(ids) - 1, len(ids) - cut])
    assert texts[0] == golden["text"]
    assert texts[1].strip() == tokenizer.decode(ids[cut:])
