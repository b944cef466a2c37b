"""Live comparison with transformers and torch: logits, gradients, exports, greedy generation."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medsjax import convert, safetensors_io, sampler, weights
from medsjax.loss import nll_sum
from tests import make_references, tiny

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch)")

SEEDS = (1, 2)


@pytest.fixture(scope="module", params=tiny.CASES)
def pair(request, tmp_path_factory):
    """(folder, our model, its tokenizer, transformers' model) of a family, new weights."""
    folder = tmp_path_factory.mktemp("parity") / request.param
    tiny.write(folder, seed=7, **tiny.CASES[request.param])
    model, tokenizer = convert.load(folder, dtype="float32")
    return folder, model, tokenizer, make_references.open_reference(folder)


def apart(a, b) -> float:
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


@pytest.mark.parametrize("seed", SEEDS)
def test_logits(seed, pair):
    """A text longer than attention's block, in order and at stretched positions."""
    _, model, _, theirs = pair
    tokens = tiny.tokens(1, 200, seed=seed)
    for kind, positions in make_references.positions(200).items():
        expected = make_references.reference_logits(theirs, tokens, positions)
        assert apart(model(tokens, positions), expected) < 1e-4, kind


def test_loss_and_gradients(pair):
    """By every parameter: the sum of the next token's negative log-likelihood."""
    _, model, _, theirs = pair
    tokens = tiny.tokens(2, 40, seed=3)

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        positions = jnp.broadcast_to(jnp.arange(40), tokens.shape)
        x_BTD = model.hidden(tokens, positions, jnp.ones_like(tokens))
        targets = np.roll(tokens, -1, axis=1)
        return nll_sum(x_BTD, model.output_VD, targets, np.tile(np.arange(40) < 39, (2, 1)))

    value, grads = loss(model)
    ids = torch.tensor(tokens, dtype=torch.long)
    logits = theirs(ids).logits[:, :-1]
    flat = (logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    expected = torch.nn.functional.cross_entropy(*flat, reduction="sum")
    theirs.zero_grad()
    expected.backward()
    assert abs(float(value) / expected.item() - 1) < 1e-5
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    parameters = dict(theirs.named_parameters())
    for name, shape in convert.expected(model.dims).items():
        param, layer = weights.locate(grads, name)
        ours = param[...] if layer is None else param[...][layer]
        assert apart(ours.reshape(shape), parameters[name].grad) < 1e-5 * largest, name


def test_transformers_loads_our_export_and_generates_alike(pair, tmp_path, monkeypatch):
    """In shards: every tensor equal, none missing; greedy text token for token."""
    _, model, tokenizer, theirs = pair
    small = partial(safetensors_io.write, max_bytes=20_000)
    monkeypatch.setattr(safetensors_io, "write", small)
    convert.save(model, tokenizer, tmp_path / "hf")
    exported, info = load_auto(tmp_path / "hf")
    assert not any(info.values()), info
    for (name, a), b in zip(theirs.named_parameters(), exported.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert_greedy_alike(model, tokenizer, exported, make_references.PROMPTS, 40)


def load_auto(folder: Path):
    """transformers' own choice of class, and what it found missing or too much."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    return model.eval(), info


def assert_greedy_alike(model, tokenizer, theirs, prompts, limit) -> None:
    """All prompts in one batch of ours: to the limit, and with two stops that their text has."""
    free = [make_references.reference_greedy(theirs, p, [], limit) for p in prompts]
    stops = sorted({free[0][3], free[1][5]})
    stopped = [make_references.reference_greedy(theirs, p, stops, limit) for p in prompts]
    for stop_ids, expected in (((), free), (tuple(stops), stopped)):
        stopping = dataclasses.replace(tokenizer, stop_ids=stop_ids)
        ours = dict(sampler.stream(model, stopping, prompts, [limit] * len(prompts)))
        assert [ours[i] for i in range(len(prompts))] == expected


def test_the_exported_tokenizer_is_the_same_to_transformers(pair, tmp_path):
    """Chat template and ids after a round trip through our export."""
    from transformers import AutoTokenizer

    folder, model, tokenizer, _ = pair
    convert.save(model, tokenizer, tmp_path / "hf")
    turns = [{"role": "user", "content": "Is it? 漢字"}, {"role": "assistant", "content": "No."}]
    before, after = (
        AutoTokenizer.from_pretrained(str(f)).apply_chat_template(turns)["input_ids"]
        for f in (folder, tmp_path / "hf")
    )
    ids, _ = tokenizer.encode_turns([(t["role"], t["content"]) for t in turns])
    assert before == after == ids.tolist()


def test_stored_references_are_what_transformers_says_today(tmp_path):
    with np.load(make_references.FOLDER / "logits.npz") as stored:
        for case, changes in tiny.CASES.items():
            theirs = make_references.open_reference(tiny.write(tmp_path / case, **changes))
            for kind, at in make_references.positions(20).items():
                now = make_references.reference_logits(theirs, tiny.tokens(1, 20), at)
                assert apart(now, stored[f"{case}/{kind}"]) < 1e-5


def test_stories260k(realdata, tmp_path):
    """A trained model: logits of its author's text, greedy from several beginnings, the export."""
    folder = realdata / "models" / "stories260K"
    model, tokenizer = convert.load(
        folder / "hf", dtype="float32", tokenizer=str(folder / "tok512.bin")
    )
    ids = json.loads((folder / "hf" / "golden_greedy.json").read_text())["ids"]
    convert.save(model, tokenizer, tmp_path / "hf")
    exported, info = load_auto(tmp_path / "hf")
    assert not any(info.values()), info
    expected = make_references.reference_logits(exported, [ids], [list(range(len(ids)))])
    assert apart(model(jnp.asarray([ids])), expected) < 1e-4
    starts = [ids[:n] for n in (1, 17, 90)]
    starts += [[tokenizer.bos_id, *tokenizer.encode("Tim and Sue were")]]
    assert_greedy_alike(model, tokenizer, exported, starts, 60)
