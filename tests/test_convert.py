"""Folders in and out bit for bit, and folders that lack what is optional."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medsjax import cards, convert, safetensors_io
from medsjax.errors import UserError
from medsjax.sharding import make_mesh
from tests import tiny

MODEL = "model.safetensors"
Q = "model.layers.1.self_attn.q_proj.weight"


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit_json(path: Path, **changes) -> None:
    """Change keys of a JSON file; None takes the key away."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_weights(folder: Path, **changes) -> None:
    """Change tensors by name; None takes one away."""
    tensors = {**load_file(folder / MODEL), **changes}
    kept = {k: v for k, v in tensors.items() if v is not None}
    save_file(kept, folder / MODEL, metadata={"format": "pt"})


def read_all(folder: Path) -> dict[str, np.ndarray]:
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def assert_same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("case", ["llama3", "llama3.2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_and_save_keep_every_bit(case, dtype, tmp_path):
    """Weights, config.json and all files beside them, untied and tied."""
    changes = {**tiny.CASES[case], "torch_dtype": dtype}
    source = tiny.write(tmp_path / "in", dtype=dtype, **changes)
    (source / "generation_config.json").write_text('{"eos_token_id": [284, 287]}')
    model, tokenizer = convert.load(source, dtype=dtype)
    convert.save(model, tokenizer, tmp_path / "out")
    assert_same_bits(read_all(source), read_all(tmp_path / "out"))
    names = {f.name for f in source.iterdir()}
    assert {f.name for f in (tmp_path / "out").iterdir()} == {*names, *cards.NAMES}
    for name in names - {MODEL}:
        assert (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in", "out"], "nothing else stays behind"


def test_every_weight_lies_where_its_name_says(tiny_folder, tiny_loaded):
    """Stacked by layer, heads apart, no transposing."""
    tensors, blocks = load_file(tiny_folder / MODEL), tiny_loaded[0].blocks
    for layer in range(2):
        attention = f"model.layers.{layer}.self_attn"
        q, o = (tensors[f"{attention}.{n}_proj.weight"] for n in "qo")
        np.testing.assert_array_equal(blocks.q_NHD[...][layer], q.reshape(4, 8, 32))
        np.testing.assert_array_equal(blocks.o_DNH[...][layer], o.reshape(32, 4, 8))


def test_shards_of_mixed_dtypes_keep_every_bit(tiny_folder, tmp_path, monkeypatch, capsys):
    """By the command, without --dtype: norms in float32, some matrices in float16, a folder of
    shards."""
    source = copy(tiny_folder, tmp_path / "in")
    values = {
        name: value.astype(
            np.float32 if "norm" in name else np.float16 if "mlp" in name else ml_dtypes.bfloat16
        )
        for name, value in read_all(source).items()
    }
    (source / MODEL).unlink()
    shapes = {name: value.shape for name, value in values.items()}
    dtypes = {name: value.dtype.name for name, value in values.items()}
    safetensors_io.write(source, shapes, dtypes, values.__getitem__, max_bytes=20_000)
    before = (source / "config.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(tmp_path / "out")])
    monkeypatch.setattr(safetensors_io, "write", partial(safetensors_io.write, max_bytes=30_000))
    convert.main()
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert_same_bits(values, read_all(tmp_path / "out"))
    assert (tmp_path / "out" / "config.json").read_bytes() == before


END_TOKENS = {
    "none there": (None, {"bos_token_id": tiny.BEGIN, "eos_token_id": [tiny.END, tiny.EOT]}),
    "a base's": (
        {"eos_token_id": tiny.END, "top_p": 0.9, "max_length": 40},
        {"eos_token_id": [tiny.END, tiny.EOT], "top_p": 0.9, "max_length": 40},
    ),
    "more of them": (
        {"eos_token_id": [tiny.EOT, 7], "do_sample": True},
        {"eos_token_id": [7, tiny.END, tiny.EOT], "do_sample": True},
    ),
}


@pytest.mark.parametrize("name", END_TOKENS)
def test_an_export_stops_at_every_end_token(name, tiny_folder, tmp_path):
    """A base's own settings do not know the end of a turn, which a tuned model writes."""
    before, after = END_TOKENS[name]
    source = copy(tiny_folder, tmp_path / "in")
    if before is not None:
        (source / "generation_config.json").write_text(json.dumps(before))
    model, tokenizer = convert.load(source, dtype="float32")
    convert.save(model, tokenizer, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == after
    assert convert.load(tmp_path / "out")[1].stop_ids == tokenizer.stop_ids


def test_bf16_weights_pass_through_a_float32_master_unchanged(tmp_path):
    source = tiny.write(tmp_path / "in", dtype="bfloat16", torch_dtype="bfloat16")
    model, tokenizer = convert.load(source, dtype="float32", compute_dtype="bfloat16")
    convert.save(model, tokenizer, tmp_path / "out", dtype="bfloat16")
    assert_same_bits(read_all(source), read_all(tmp_path / "out"))


def test_an_export_in_another_dtype_says_so_in_its_config(tiny_folder, tiny_loaded, tmp_path):
    convert.save(*tiny_loaded, tmp_path / "out", dtype="bfloat16")
    rounded = {n: v.astype(ml_dtypes.bfloat16) for n, v in read_all(tiny_folder).items()}
    assert_same_bits(rounded, read_all(tmp_path / "out"))
    before, after = (
        json.loads((f / "config.json").read_text()) for f in (tiny_folder, tmp_path / "out")
    )
    assert after == {**before, "torch_dtype": "bfloat16"}


def test_shards_with_an_index_both_ways(tiny_folder, tiny_loaded, tmp_path, monkeypatch):
    small = partial(safetensors_io.write, max_bytes=20_000)
    monkeypatch.setattr(safetensors_io, "write", small)
    convert.save(*tiny_loaded, tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*-of-*.safetensors"))) > 3
    assert_same_bits(read_all(tiny_folder), read_all(tmp_path / "sharded"))
    model, tokenizer = convert.load(tmp_path / "sharded", make_mesh(4, 2), "float32")
    monkeypatch.undo()
    convert.save(model, tokenizer, tmp_path / "whole")
    assert_same_bits(read_all(tiny_folder), read_all(tmp_path / "whole"))


def test_save_replaces_an_old_folder_whole(tiny_loaded, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale").write_text("")
    convert.save(*tiny_loaded, out)
    assert not (out / "stale").exists() and (out / MODEL).is_file()


def test_what_a_killed_export_left_goes_with_the_next(tiny_loaded, tmp_path, monkeypatch):
    """But neither what another process is writing, nor what only has a similar name."""
    for name in (".hf.part-killed", ".hf.part-writing", ".hf-mine"):
        (tmp_path / name / "hf").mkdir(parents=True)
    write, seen = safetensors_io.write, []

    def watched(folder: Path, *args) -> None:
        with convert._held(folder.parent) as alone:
            seen.append(alone)
        write(folder, *args)

    monkeypatch.setattr(safetensors_io, "write", watched)
    with convert._held(tmp_path / ".hf.part-writing"):
        convert.save(*tiny_loaded, tmp_path / "hf")
    assert seen == [False], "an export holds its own folder"
    assert sorted(f.name for f in tmp_path.iterdir()) == [".hf-mine", ".hf.part-writing", "hf"]


def test_float64_weights_become_float32(tiny_folder, tmp_path, monkeypatch):
    folder = copy(tiny_folder, tmp_path / "in")
    doubles = {name: value.astype("float64") for name, value in read_all(tiny_folder).items()}
    save_file(doubles, folder / MODEL, metadata={"format": "pt"})
    assert convert.stored_dtype(folder) == "float32"
    monkeypatch.setattr(sys, "argv", ["convert", str(folder), str(tmp_path / "out")])
    convert.main()
    assert_same_bits(read_all(tiny_folder), read_all(tmp_path / "out"))
    assert "Weights in float32, from `in`" in (tmp_path / "out" / cards.CARD).read_text()


def test_a_config_without_theta_says_once_what_is_taken(tiny_folder, tmp_path, capsys):
    folder = copy(tiny_folder, tmp_path / "in")
    edit_json(folder / "config.json", rope_theta=None)
    for _ in range(2):
        assert convert.load(folder)[0].dims.rope_theta == 10000.0
    said = f"{folder / 'config.json'}: has no rope_theta; transformers' default, 10000, is taken\n"
    assert capsys.readouterr().err == said


def test_a_failed_save_leaves_what_was_there(tiny_loaded, tmp_path, monkeypatch):
    convert.save(*tiny_loaded, tmp_path / "out")
    before = (tmp_path / "out" / MODEL).read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors_io, "_write_shard", fail)
    for name in ("out", "new"):
        with pytest.raises(OSError, match="disk full"):
            convert.save(*tiny_loaded, tmp_path / name)
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / MODEL).read_bytes() == before


def test_harmless_extra_tensors(tmp_path):
    """Old files carry rope's buffers; tied ones sometimes a copy of the embedding."""
    folder = tiny.write(tmp_path / "in", **tiny.CASES["llama3.2"])
    want = read_all(folder)
    buffer = np.ones(8, np.float32)
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": buffer for i in range(2)}
    edit_weights(folder, **extra, **{"lm_head.weight": want["model.embed_tokens.weight"]})
    convert.save(*convert.load(folder, dtype="float32"), tmp_path / "out")
    assert_same_bits(want, read_all(tmp_path / "out"))


def test_a_folder_with_nothing_optional(tiny_folder, tmp_path):
    """No chat template, no generation_config, no end tokens in config.json: the tokenizer's own."""
    folder = copy(tiny_folder, tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    edit_json(folder / "config.json", eos_token_id=None, bos_token_id=None, torch_dtype=None)
    _, tokenizer = convert.load(folder, dtype="float32")
    assert tokenizer.stop_ids == (tiny.EOT,)
    ids, _ = tokenizer.encode_turns([("user", "hi")])
    assert ids[0] == tokenizer.bos_id == tiny.BEGIN


def test_several_end_tokens(tiny_folder, tmp_path):
    folder = copy(tiny_folder, tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 9]}')
    assert convert.load(folder)[1].stop_ids == (5, 9, tiny.END, tiny.EOT)


def test_the_command_converts_and_refuses_to_overwrite(tiny_folder, tmp_path, monkeypatch, capsys):
    argv = ["convert", str(tiny_folder), str(tmp_path / "out"), "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", argv)
    convert.main()
    assert "21 tensors, bfloat16" in capsys.readouterr().out
    assert {v.dtype.name for v in read_all(tmp_path / "out").values()} == {"bfloat16"}
    with pytest.raises(UserError, match="exists already; name a new folder"):
        convert.main()


def test_the_command_keeps_the_sources_dtype_and_bits(tmp_path, monkeypatch):
    source = tiny.write(tmp_path / "in", dtype="bfloat16", torch_dtype="bfloat16")
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(tmp_path / "out")])
    convert.main()
    assert_same_bits(read_all(source), read_all(tmp_path / "out"))


def test_random_weights_of_a_config_follow_the_seed(tiny_folder, tmp_path, monkeypatch):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = str(tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["convert", str(tiny_folder), out, "--random", seed])
        convert.main()
    a, b, c = (read_all(tmp_path / name) for name in "abc")
    assert_same_bits(a, b)
    assert a.keys() == read_all(tiny_folder).keys()
    assert not np.array_equal(a[Q], c[Q])
    assert abs(a[Q].std() * 32**0.5 - 1) < 0.1, "normal, by fan-in"


def test_the_command_ends_with_one_line_and_exit_code_2(tiny_folder, tmp_path):
    folder = copy(tiny_folder, tmp_path / "in")
    edit_weights(folder, **{Q: None})
    command = [sys.executable, "-m", "medsjax.convert", str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {folder}: tensor {Q} is missing from the weights\n"
    assert [f.name for f in tmp_path.iterdir()] == ["in"]
