"""Planning: the step is train's own, sizes are those of real arrays, what does not fit is searched.

The compilers of machines that are not here are tried by the slow test; elsewhere eight CPU devices
stand for a slice.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import jax
import pytest

from medsjax import (
    bounds,
    convert,
    fitting,
    fitting_sampler,
    metrics,
    optim,
    plan,
    plan_report,
    topologies,
    train,
)
from medsjax import step as steps
from medsjax.config import Config, Optim, Run
from medsjax.errors import UserError, run_main
from medsjax.hf_config import read_config
from medsjax.sharding import make_mesh
from tests import tiny
from tests.test_train import Repeat

CONFIG = """
from medsjax.config import Config
from tests.test_train import Repeat


def get_config():
    return Config(model="model", data=Repeat(), length=64, batch=32, epochs=2.0)
"""
WIDE = {"hidden_size": 128, "intermediate_size": 256}


def memory(monkeypatch, gib: float) -> None:
    """Chips of that much memory, of which 1x1, 2x2 and 2x4 are CPU devices."""
    chip = replace(topologies.CHIPS["v5e"], hbm_gib=gib, slices=("1x1", "2x2", "2x4"))
    monkeypatch.setitem(topologies.CHIPS, "v5e", chip)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a config and a model, which is the current one; v5e is made of CPU devices."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "CACHE", tmp_path / "cache")
    monkeypatch.setitem(metrics.PEAK_FLOPS, jax.devices()[0].device_kind, 197e12)
    chips = {"v5e:1x1": 1, "v5e:2x2": 4, "v5e:2x4": 8}
    monkeypatch.setattr(topologies, "devices", lambda name: jax.devices()[: chips[name]])
    monkeypatch.setattr(topologies, "compiler", lambda name: "a test")
    memory(monkeypatch, 1.0)
    (tmp_path / "exp.py").write_text(CONFIG)
    tiny.write(tmp_path / "model", **WIDE)
    return tmp_path


def config(**changes) -> Config:
    return Config(model="model", data=Repeat(), length=64, batch=32, **changes)


def run(monkeypatch, *args: str) -> int:
    """The exit code of the command; its report is in out.json."""
    command = ["plan", "--config", "exp.py", "--topology", "v5e:2x4", "--json", "out.json", *args]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        run_main(plan.main)
    return stopped.value.code


def on_first(tree) -> int:
    """Bytes of real arrays on the first device."""
    return sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The plan of `config()` on eight devices, and the folder of its model; compiled once."""
    folder = tiny.write(tmp_path_factory.mktemp("real") / "model", **WIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topologies, "devices", lambda name: jax.devices())
        return fitting.fit(config(), folder, "v5e:2x4"), folder


def test_parts_are_the_bytes_that_a_real_state_has_on_a_device(real):
    f, folder = real
    mesh, optimizer = make_mesh(8, 1), optim.make(Optim(), 10)
    model, _ = convert.load(folder, mesh, "float32")
    state = steps.abstract_state(model, optimizer, mesh)
    opt = steps.init_opt(optimizer, state[1], model)

    assert (f.params, f.optimizer) == (on_first(model), on_first(opt))
    assert f.checkpoint == sum(leaf.nbytes for leaf in jax.tree.leaves((model, opt)))
    assert f.params < f.optimizer < f.peak - f.params  # gradients are at least as large as these


def test_the_program_is_the_one_that_train_runs(real, monkeypatch):
    """Another `train_step` gives another plan: nothing of it is written down twice."""
    f, folder = real
    monkeypatch.setattr(topologies, "devices", lambda name: jax.devices())
    monkeypatch.setattr(steps, "train_step", lambda model, opt, *_, **__: (model, opt, {}))
    nothing = fitting.fit(config(), folder, "v5e:2x4")
    assert nothing.collectives == () and nothing.peak < f.peak


def test_every_weight_is_gathered_at_least_twice(real):
    """Forward and backward, in the compute dtype: 7/8 of it comes from the other seven."""
    f, _ = real
    D, F, N, K, H = (getattr(f.dims, letter) for letter in "DFNKH")
    layers = f.dims.L * (2 * D * H * (N + K) + 3 * D * F)
    assert sum(c.sent for c in f.collectives) > 2 * 2 * layers * 7 / 8


def test_a_rung_needs_less_than_the_one_before(place):
    rungs = list(fitting.ladder(config(run=Run(accumulate=2)), 4))
    made = [(r.run.accumulate, r.optim.m_dtype) for r in rungs]
    f32, bf16 = "float32", "bfloat16"
    assert made == [(2, f32), (4, f32), (8, f32), (8, bf16)] and rungs[0].run == Run(accumulate=2)
    assert all(r.batch // r.run.accumulate % 4 == 0 for r in rungs)
    assert list(fitting.ladder(config(), 64)) == []


@pytest.fixture
def modelled(place, real, monkeypatch):
    """Compiling is replaced by a rule: 8 GiB of state and 32 of activations over chips and parts.

    Twice the activations where nothing is computed again.
    """

    def fit(cfg, folder, topology):
        state = 8 if cfg.optim.m_dtype == "float32" else 6
        chips = len(topologies.devices(topology))
        tensor = max(cfg.run.mesh[1], 1)
        kept = 32 if cfg.run.remat == "full" else 64
        peak = (state + kept / cfg.run.accumulate) / chips
        fits = peak <= topologies.chip(topology).hbm_gib
        mesh = {"fsdp": chips // tensor, "tensor": tensor}
        made = {"cfg": cfg, "topology": topology, "mesh": mesh, "peak": int(peak * fitting.GIB)}
        return replace(real[0], **made, fits=fits, why="" if fits else "too large")

    monkeypatch.setattr(fitting, "fit", fit)


@pytest.mark.parametrize(
    ("limit", "args", "nearest"),
    [
        (4.0, "", "--config.run.accumulate=2"),  # 1 + 4 / 2
        (2.0, "", "--config.run.accumulate=4"),  # 1 + 4 / 4
        (1.9, "", "--config.run.accumulate=4 --config.optim.m_dtype=bfloat16"),
        (1.5, "", "--config.run.mesh 0 2 --config.run.accumulate=8"),
        (6.0, "--topology v5e:2x2", "--config.run.accumulate=2"),  # 2 + 8 / 2
        (
            1.75,
            "--topology v5e:1x1",
            "--topology=v5e:2x4 --config.run.accumulate=4 --config.optim.m_dtype=bfloat16",
        ),
        (5.0, "--config.run.remat=none", "--config.run.accumulate=2"),  # 1 + 8 / 2
        (2.0, "--config.run.remat=none", "--config.run.remat=full --config.run.accumulate=4"),
        (0.5, "", None),
    ],
)
def test_the_nearest_setting_that_fits(limit, args, nearest, modelled, monkeypatch, capsys):
    memory(monkeypatch, limit)
    assert run(monkeypatch, *args.split()) == 1
    found = json.loads(Path("out.json").read_text())
    said = capsys.readouterr().out
    assert all(f"tried {t['flags']}: " in said for t in found["tried"])
    if nearest is None:
        assert found["nearest"] is None and "nothing that fits was found" in said
        return
    assert found["nearest"]["flags"] == nearest and f"nearest that fits: {nearest}" in said
    assert found["nearest"] in found["tried"] and not found["fits"]
    assert run(monkeypatch, *args.split(), *nearest.split()) == 0


def test_what_state_alone_fills_is_not_compiled(place, monkeypatch):
    memory(monkeypatch, 1e-4)
    monkeypatch.setattr(fitting, "jit_step", None)
    f = fitting.fit(config(), Path("model"), "v5e:1x1")
    assert f.peak is None and not f.fits and "optimizer alone take" in f.why
    assert bounds.speed(f, 0.4, None)["bounds_s"]["links"] is None


def test_the_report_holds_what_help_documents(modelled, monkeypatch, capsys):
    memory(monkeypatch, 99)
    assert run(monkeypatch) == 0
    found = json.loads(Path("out.json").read_text())
    assert list(found) == list(plan_report.KEYS)
    parts = found["params_gib"] + found["optimizer_gib"] + found["temporaries_gib"]
    assert parts == pytest.approx(found["peak_gib"], abs=0.02)
    opened = train.Plan.of(Repeat(), convert.inspect(Path("model"))[1], config(), "data")
    assert found["steps"] == -(-2 * len(opened.rows) // 32)
    assert found["examples_per_step"] == pytest.approx(60 / len(opened.rows) * 32, abs=0.1)
    assert list(Path().glob("out.*")) == [Path("out.json")]
    capsys.readouterr()
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {key} " in said for key in plan_report.KEYS) and "--mfu" in said


def test_a_run_is_as_long_as_its_tokens(modelled, monkeypatch):
    memory(monkeypatch, 99)
    assert run(monkeypatch, "--tokens", "1000000", "--mfu", "0.5") == 0
    found = json.loads(Path("out.json").read_text())
    assert found["steps"] == -(-2 * -(-1_000_000 // 64) // 32)
    assert found["days"] * 86400 == pytest.approx(found["steps"] * found["step_s"], abs=900)
    assert found["step_s"] >= max(found["bounds_s"].values())


def test_flops_of_llama_3(tmp_path):
    """46.6e9 a trained token of 2048; recomputed whole layers add up to a third of it. On a GPU
    attention is computed again although its inputs are kept."""
    dims = read_config(plan_report.config_folder("llama-3-8b", tmp_path)[0])[1]
    flops = metrics.train_flops(dims, 2048)
    tpu, gpu = (
        {r: bounds.flops_again(dims, 2048, r, gpu) / flops for r in ("full", "qkv_context", "none")}
        for gpu in (False, True)
    )
    assert flops == pytest.approx(46.6e9, rel=0.005)
    assert tpu["none"] == gpu["none"] == 0 and tpu["full"] == gpu["full"] < 1 / 3
    assert 0.1 < tpu["qkv_context"] < gpu["qkv_context"] < tpu["full"]


@pytest.mark.parametrize(
    ("name", "billions"), [("llama-3-8b", 8.030), ("llama-3.2-1b", 1.236), ("llama-3.2-3b", 3.213)]
)
def test_built_in_shapes_have_as_many_parameters_as_their_checkpoints(name, billions, tmp_path):
    _, dims = read_config(plan_report.config_folder(name, tmp_path)[0])
    assert bounds.parameters(dims) / 1e9 == pytest.approx(billions, abs=0.001)


def test_a_shape_is_found_without_a_checkpoint(tmp_path, tiny_folder, monkeypatch):
    assert plan_report.config_folder(str(tiny_folder), tmp_path) == (tiny_folder, "config.json")
    assert plan_report.config_folder("Owner/Meta-Llama-3-8B-Instruct", tmp_path)[1] == "llama-3-8b"
    cached = {"Owner/Model": str(tiny_folder / "config.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda n, _: cached.get(n))
    assert plan_report.config_folder("Owner/Model", tmp_path) == (tiny_folder, "config.json")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--topology", "v5e:4x9"], "--topology v5e:4x9: not known; did you mean v5e:4x8? there"),
        (["--topology", "cray"], "there are v4:2x2x1, "),
        (["--config.run.mesh", "3", "1"], "run.mesh: 3 x 1 does not use all 8 devices"),
        (["--config.run.mesh", "1", "8"], "which tensor=8 does not divide"),
        (["--config.batch=12"], "batch=12 in 1 parts: each part's rows must be a multiple"),
        (["--config.model=owner/other"], "its name has none of llama-3-8b, llama-3.2-1b"),
        (["--config.model=absent/folder/x"], "no such folder"),
        (["--config.model=/nope/llama-3.2-1b"], "/nope/llama-3.2-1b: no such folder"),
        (["--config.model=run"], "run: a run, not a model"),
        (["--config.length=999999999"], "config.length=999999999: plans go up to"),
        (["--mfu", "40"], "--mfu 40.0: a share of the peak"),
        (["--mfu", "1e-320"], "a share of the peak, 0.001 to 1"),
        (["--json", "absent/out.json"], "--json absent/out.json: not a file that can be written"),
        (["--json", "run"], "--json run: not a file that can be written"),
        (["--json", ""], "not a file that can be written"),
        (["--table", "plans"], "--table plans all of its machines"),
        (["--tokens", "0"], "--tokens 0: "),
        (["--tokens", "many"], "--tokens: invalid int value: 'many'"),
        (["--job", "eval", "--batch", "3"], "--batch 3: must be a multiple of the 4 on fsdp"),
        (["--job", "eval", "--batch", "0"], "--batch 0 --length 2048: 1 row or more"),
        (["--job", "eval", "--length", "99999999999"], "1 row or more, of 1 to"),
        (["--job", "eval", "--tokens", "0"], "--tokens and --mfu are for --job train"),
        (["--job", "eval", "--mfu", "0.4"], "--tokens and --mfu are for --job train"),
        (["--batch", "0"], "--batch and --length are for --job eval"),
        (["--topolgy", "v5e:2x2"], "--topolgy"),
    ],
)
def test_a_wrong_argument_is_named(args, says, place, monkeypatch, capsys):
    (place / "run/checkpoints").mkdir(parents=True)
    monkeypatch.setattr(train.Plan, "of", None)  # all of it is found before the data are laid out
    monkeypatch.setattr(fitting_sampler, "_compiled", None)
    assert run(monkeypatch, *args) == 2
    *_, line = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("error: ") and says in line


@pytest.mark.parametrize(("topology", "extra"), [("v5e:4x8", "tpu-plan"), ("h200", "gpu-plan")])
def test_an_extra_that_is_not_installed_is_named(topology, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install -e '.\[{extra}\]'"):
        topologies.devices(topology)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:1x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x2"])
def test_libtpu_compiles_the_step(topology, tmp_path):
    """Of a small model with heads of 64, so that attention is the kernel for TPUs."""
    pytest.importorskip("libtpu", reason="needs the extra tpu-plan")
    found = planned(tmp_path, topology, "--config.length=256", "--tokens", "1000000")
    assert found["fits"] and found["chips"] == {"1x1": 1, "2x4": 8}.get(topology[4:], 4)
    assert found["params_gib"] + found["optimizer_gib"] <= found["peak_gib"] < 1
    assert bool(found["collectives"]) == (found["chips"] > 1)


@pytest.mark.slow
def test_the_cuda_plugin_compiles_the_step(tmp_path):
    pytest.importorskip("jax_cuda13_plugin", reason="needs the extra gpu-plan")
    found = planned(tmp_path, "h200", "--config.length=256", "--tokens", "1000000")
    assert found["fits"] and found["chips"] == 1 and found["collectives"] == []


def planned(folder: Path, topology: str, *args: str) -> dict:
    """The report of a process of its own: compilers read their settings when jax starts."""
    tiny.write(folder / "model", **WIDE, num_attention_heads=2, num_key_value_heads=1)
    (folder / "exp.py").write_text(CONFIG)
    command = ["-m", "medsjax.plan", "--config", "exp.py", "--topology", topology, "--json", "out"]
    root = str(Path(__file__).parent.parent)
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, *command, *args], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out").read_text())
