"""Runs as HF folders: the checkpoint asked for, bit for bit, with its card and manifest."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from medsjax import cards, convert, verify
from medsjax.checkpoint import Checkpoints, room
from medsjax.errors import UserError
from tests import tiny
from tests.test_convert import assert_same_bits, read_all

SCORES = {
    "results": {"taskA": {"acc,fixed": 61.25, "trivial,fixed": 33.3}},
    "primary": {"taskA": "acc,fixed"},
    "n-samples": {"taskA": 50},
    "summary": {"mean": 61.25, "trivial": 33.3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A workdir with two checkpoints on a bfloat16 base: its weights, and twice those."""
    folder = tmp_path_factory.mktemp("run")
    base = tiny.write(folder / "base", dtype="bfloat16", torch_dtype="bfloat16")
    model, tokenizer = convert.load(base, dtype="float32")
    workdir = folder / "demo"
    moments = {"m": jax.tree.map(jnp.zeros_like, model)}
    checkpoints = Checkpoints(workdir / "checkpoints", 2, (model, moments), room())
    checkpoints.save(3, (model, moments))
    checkpoints.save(6, (jax.tree.map(lambda a: 2 * a, model), moments))
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps({"model": str(base), "tokenizer": ""}))
    who = {"tokenizer": tokenizer.fingerprint, "data": "d4ta", "optim.lr": 1e-5}
    (workdir / "identity.json").write_text(json.dumps(who))
    rows = [{"step": s, "heldout_loss": loss} for s, loss in ((0, 3.5), (3, 2.25), (6, 1.125))]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (workdir / "eval" / "step_3").mkdir(parents=True)
    (workdir / "eval" / "step_3" / "scores.json").write_text(json.dumps(SCORES))
    return workdir


def command(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, args)])
    convert.main()


def check(folder: Path) -> None:
    """The manifest names every file but itself, as sha256sum -c reads it."""
    lines = (folder / "manifest.sha256").read_text().splitlines()
    found = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}
    found.pop("manifest.sha256")
    assert sorted(lines) == sorted(f"{digest}  {name}" for name, digest in found.items())


def test_a_step_of_a_run_is_the_checkpoints_weights(run, tmp_path, monkeypatch, capsys):
    """In the base's dtype; these weights are exact in it."""
    command(monkeypatch, f"{run}@3", tmp_path / "three")
    assert "21 tensors, bfloat16" in capsys.readouterr().out
    assert_same_bits(read_all(run.parent / "base"), read_all(tmp_path / "three"))
    check(tmp_path / "three")
    card = (tmp_path / "three" / "README.md").read_text()
    for text in ("3 steps", "`base`", "`d4ta`", "`1e-05`", "3.500 (step 0) → 2.250 (step 3)"):
        assert text in card, text
    assert (
        "| taskA | acc, fixed | 61.2 | 33.3 | 50 |" in card and "| mean | | 61.2 | 33.3 | |" in card
    )
    assert "Llama 3" in card and "MedS-Ins" in card and str(run.parent) not in card


def test_a_run_alone_is_its_last_checkpoint(run, tmp_path, monkeypatch):
    command(monkeypatch, run, tmp_path / "last", "--dtype", "float32")
    base = read_all(run.parent / "base")
    doubled = {name: 2 * value.astype("float32") for name, value in base.items()}
    assert_same_bits(doubled, read_all(tmp_path / "last"))
    card = (tmp_path / "last" / "README.md").read_text()
    assert "6 steps" in card and "1.125 (step 6)" in card and "Scores" not in card


def damage_identity(run: Path) -> None:
    (run / "identity.json").write_text('{"tokenizer": "another"}')


BROKEN = {
    "an absent step": ("@5", lambda run: None, "no checkpoint 5; there are: 3, 6"),
    "a word for a step": ("@last", lambda run: None, "after @ is a step"),
    "no config": ("", lambda run: (run / "config.json").unlink(), "config.json or identity.json"),
    "another tokenizer": ("", damage_identity, "not the tokenizer that .* was trained with"),
    "no base": (
        "",
        lambda run: (run / "config.json").write_text('{"model": "./gone", "tokenizer": ""}'),
        "gone: no such model folder",
    ),
    "no checkpoint": (
        "",
        lambda run: [shutil.rmtree(p) for p in (run / "checkpoints").iterdir() if p.is_dir()],
        "no checkpoint; there are: none",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_one_line(name, run, tmp_path, monkeypatch):
    step, damage, message = BROKEN[name]
    copied = shutil.copytree(run, tmp_path / "run")
    damage(copied)
    with pytest.raises(UserError, match=message):
        command(monkeypatch, f"{copied}{step}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_no_model(run):
    with pytest.raises(UserError, match=r"a run, not a model; its export is .*hf, "):
        convert.load(run)


def test_a_card_is_replaced_and_the_manifest_with_it(tiny_loaded, tmp_path):
    convert.save(*tiny_loaded, tmp_path / "out", card="first\n")
    assert (tmp_path / "out" / "README.md").read_text() == "first\n"
    check(tmp_path / "out")
    cards.put(tmp_path / "out", "second\n")
    assert (tmp_path / "out" / "README.md").read_text() == "second\n"
    check(tmp_path / "out")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGED = {
    "a flipped bit": (
        lambda f: flip(f / "model.safetensors"),
        "out: model.safetensors differs from manifest.sha256",
    ),
    "two files": (
        lambda f: (flip(f / "config.json"), flip(f / "tokenizer.json")),
        "out: config.json, tokenizer.json differs",
    ),
    "a file gone": (lambda f: (f / "config.json").unlink(), "lists config.json, which is not"),
    "no manifest's line": (
        lambda f: (f / "manifest.sha256").write_text("abc  config.json\n"),
        "manifest.sha256: line 1 is no",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_folder_is_named_by_file(name, tiny_loaded, tmp_path, monkeypatch):
    """By the command with --verify, of its source, before anything is read or written."""
    monkeypatch.setattr(verify, "need_torch", lambda: None)
    convert.save(*tiny_loaded, tmp_path / "out")
    cards.check(tmp_path / "out")
    damage, message = DAMAGED[name]
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        command(monkeypatch, tmp_path / "out", tmp_path / "again", "--verify")
    assert not (tmp_path / "again").exists()


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_sha256sum_reads_the_manifest(tiny_loaded, tmp_path):
    convert.save(*tiny_loaded, tmp_path / "out")
    ask = partial(subprocess.run, ["sha256sum", "-c", "manifest.sha256"], cwd=tmp_path / "out")
    assert ask(capture_output=True).returncode == 0
    flip(tmp_path / "out" / "model.safetensors")
    done = ask(capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 1 and "model.safetensors: FAILED" in done.stdout


def test_an_export_as_a_base_has_its_runs_name(tmp_path):
    (tmp_path / "medsins" / "hf").mkdir(parents=True)
    card = cards.plain(str(tmp_path / "medsins" / "hf"))
    assert "\n# medsins, by medsjax\n" in card and "from `medsins`" in card


def test_a_hub_base_is_named_as_the_hub_wants_it():
    card = cards.plain("someone/Model-8B")
    assert card.startswith("---\n") and "\nbase_model: someone/Model-8B\n" in card


def test_verify_without_torch_is_one_line_at_once(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torch is not installed; pip install -e '.\[parity\]'"):
        command(monkeypatch, tiny_folder, tmp_path / "out", "--verify")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_verify_agrees_with_transformers(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    command(monkeypatch, f"{run}@3", tmp_path / "out", "--verify")
    words = capsys.readouterr().out.split()
    apart, kl = (float(words[words.index(key) + 1].strip(",")) for key in ("logit", "KL"))
    assert apart < 1e-4 and abs(kl) < 1e-8
