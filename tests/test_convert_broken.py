"""Each way in which a model folder can be broken is one line that names file and rule."""

import sys

import numpy as np
import pytest

from medsjax import convert, safetensors_io
from medsjax.errors import UserError
from tests import tiny
from tests.test_convert import MODEL, Q, copy, edit_json, edit_weights

# What is wrong with a folder -> how it comes about, and what the one line must say.
BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config cut": (
        lambda f: (f / "config.json").write_text('{"model_type": "lla'),
        "config.json: not a JSON object",
    ),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: not a JSON"),
    "config not utf-8": (
        lambda f: (f / "config.json").write_bytes(b'{"model_type": "\xff"}'),
        "config.json: not a JSON object",
    ),
    "no size": (lambda f: edit_json(f / "config.json", hidden_size=None), "'hidden_size'"),
    "size a word": (
        lambda f: edit_json(f / "config.json", hidden_size="wide"),
        "config.json: .*wide",
    ),
    "no heads": (lambda f: edit_json(f / "config.json", num_attention_heads=0), "config.json: "),
    "heads that do not group": (
        lambda f: edit_json(f / "config.json", num_key_value_heads=3),
        "config.json: .*num_key_value_heads",
    ),
    "no eps": (lambda f: edit_json(f / "config.json", rms_norm_eps=None), "'rms_norm_eps'"),
    "unknown scaling": (
        lambda f: edit_json(f / "config.json", rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_type yarn; default, linear and llama3 load",
    ),
    "half a scaling": (
        lambda f: edit_json(f / "config.json", rope_scaling={"rope_type": "llama3", "factor": 8}),
        "config.json: .*low_freq_factor",
    ),
    "two scalings": (
        lambda f: edit_json(
            f / "config.json",
            rope_scaling={"type": "linear", "factor": 4.0},
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        ),
        "rope_scaling and rope_parameters name two values of rope_type",
    ),
    "another family": (
        lambda f: edit_json(f / "config.json", model_type="qwen3"),
        "config.json: model_type 'qwen3' does not load; llama does",
    ),
    "biases": (lambda f: edit_json(f / "config.json", attention_bias=True), "attention_bias=True"),
    "missing tensor": (lambda f: edit_weights(f, **{Q: None}), f"tensor {Q} is missing"),
    "no embedding": (
        lambda f: edit_weights(f, **{"model.embed_tokens.weight": None}),
        "tensor model.embed_tokens.weight is missing",
    ),
    "untied without output": (
        lambda f: edit_weights(f, **{"lm_head.weight": None}),
        "tensor lm_head.weight is missing",
    ),
    "extra tensor": (
        lambda f: edit_weights(f, **{"model.layers.2.mlp.up_proj.weight": np.ones(3)}),
        "tensor model.layers.2.mlp.up_proj.weight belongs to no part",
    ),
    "misshapen tensor": (
        lambda f: edit_weights(f, **{Q: np.ones((32, 31), np.float32)}),
        rf"tensor {Q} is \(32, 31\); config.json asks for \(32, 32\)",
    ),
    "integer tensor": (
        lambda f: edit_weights(f, **{Q: np.ones((32, 32), np.int8)}),
        f"tensor {Q} has dtype I8; .*floating",
    ),
    "integer embedding": (
        lambda f: edit_weights(
            f, **{"model.embed_tokens.weight": np.ones((tiny.VOCAB, 32), np.int8)}
        ),
        "embed_tokens.weight has dtype I8; .*floating",
    ),
    "truncated file": (
        lambda f: (f / MODEL).write_bytes((f / MODEL).read_bytes()[:-100]),
        f"{MODEL}: truncated",
    ),
    "broken index": (
        lambda f: (f / safetensors_io.INDEX).write_text("{"),
        "index.json: broken",
    ),
    "absent shard": (
        lambda f: (f / safetensors_io.INDEX).write_text('{"weight_map": {"a": "b"}}'),
        "index.json: names b, which is not there",
    ),
    "no weights": (lambda f: (f / MODEL).unlink(), r"no \*.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer here"),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{"),
        "the tokenizer does not load",
    ),
    "broken generation_config": (
        lambda f: (f / "generation_config.json").write_text("]"),
        "generation_config.json: not a JSON object",
    ),
    "tokenizer larger than the embedding": (
        lambda f: (
            edit_json(f / "config.json", vocab_size=200),
            edit_weights(
                f,
                **{
                    name: np.ones((200, 32), np.float32)
                    for name in ("model.embed_tokens.weight", "lm_head.weight")
                },
            ),
        ),
        f"the tokenizer has {tiny.VOCAB} ids, but the embedding .* only 200 rows",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_line_that_names_file_and_rule(
    name, tiny_folder, tmp_path, monkeypatch
):
    """From load, and from the command, which leaves nothing behind."""
    folder = copy(tiny_folder, tmp_path / "in")
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        convert.load(folder, dtype="float32")
    assert str(folder) in str(caught.value)
    monkeypatch.setattr(sys, "argv", ["convert", str(folder), str(tmp_path / "out")])
    with pytest.raises(UserError, match=message):
        convert.main()
    assert [f.name for f in tmp_path.iterdir()] == ["in"]


def test_what_is_no_model_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for source in (tmp_path / "absent", tmp_path / "file", "absent", "./a/b"):
        with pytest.raises(UserError, match="no such model folder"):
            convert.load(source)
