"""The product from its command line: a run killed for real, real weights, the demo's own step."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from medsjax import config, convert, input_pipeline, metrics, optim, train
from medsjax import step as steps
from medsjax.sharding import batch_sharding, make_mesh, one_device

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    *("--config", "demo.py", "--config.epochs=0.06", "--config.bench.limit=2"),
    *(
        "--config.run.save_every=3",
        "--config.run.log_every=1",
        "--config.run.eval_every=0",
        "--config.run.bench_at=end",
    ),
]


def command(workdir: Path) -> subprocess.Popen:
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    args = [sys.executable, "-m", "medsjax.train", *SETTINGS, f"--config.workdir={workdir}"]
    return subprocess.Popen(args, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(workdir: Path) -> str:
    process = command(workdir)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


def losses(workdir: Path) -> list[tuple]:
    rows = metrics.read(workdir / "metrics.jsonl")
    return [(row["step"], row.get("loss"), row.get("heldout_loss")) for row in rows]


def test_killed_at_any_time_the_same_command_ends_in_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    steps = losses(whole)
    last = steps[-1][0]
    assert [s[0] for s in steps] == list(range(last + 1)) and last >= 9
    for after in (2, 5, 7):  # the second and third find a checkpoint to go on from
        process = command(killed)
        deadline = time.time() + 300
        while not any(row["step"] >= after for row in metrics.read(killed / "metrics.jsonl")):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(killed)
    assert losses(killed) == steps
    weights = "hf/model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    scores = [
        json.loads((run / f"eval/step_{last}/scores.json").read_text()) for run in (whole, killed)
    ]
    assert scores[0]["results"] == scores[1]["results"]
    assert "nothing left to do" in finish(killed)


def demo_losses(mesh, n: int = 5) -> list[float]:
    cfg = config.load(["--config", "demo.py", "--config.data.path=data/sample/train"])
    folder = Path(cfg.model)
    _, tokenizer = convert.inspect(folder)
    plan = train.Plan.of(cfg.data, tokenizer, cfg, "data")
    optimizer = optim.make(cfg.optim, 300)
    abstract = convert.abstract(folder, mesh, "float32", "float32")
    state = steps.abstract_state(abstract, optimizer, mesh)
    update, seen = steps.jit_step(state, optimizer, 1, remat="none"), []
    settings = {"length": cfg.length, "batch": cfg.batch, "epochs": 1.0, "seed": 0}
    hosts = {"start_step": 0, "process_index": 0, "process_count": 1, "workers": 0}
    batches = input_pipeline.batches(plan.source, plan.rows, plan.lengths, **settings, **hosts)
    with jax.set_mesh(mesh):
        model, _ = convert.load(folder, mesh, "float32")
        opt_state = steps.init_opt(optimizer, state[1], model)
        for _, batch in zip(range(n), batches, strict=False):
            placed = input_pipeline.put(batch, batch_sharding(mesh))
            model, opt_state, out = update(model, opt_state, placed)
            seen.append(float(out["loss"]))
    batches.close()
    return seen


def test_the_demos_steps_on_eight_devices_are_those_on_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    reference = demo_losses(one_device())
    for shape in ((8, 1), (4, 2)):
        np.testing.assert_allclose(demo_losses(make_mesh(*shape)), reference, rtol=1e-5)


def test_real_weights_on_real_tasks_learn_and_reload_in_transformers(
    realdata, tmp_path, monkeypatch
):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "make_mesh", lambda *_: one_device())
    cfg = config.load(["--config", "real.py", "--config.epochs=0.05"])
    train.train(dataclasses.replace(cfg, workdir=str(tmp_path / "real")))
    heldout = [loss for _, _, loss in losses(tmp_path / "real") if loss is not None]
    assert heldout[-1] < 0.8 * heldout[0]

    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "real" / "hf")
    model, tokenizer = convert.load(tmp_path / "real" / "hf", dtype="float32")
    ids = np.array([[tokenizer.bos_id, *tokenizer.encode("Patients with type 2 diabetes .")]])
    theirs = tuned(torch.tensor(ids)).logits.detach().numpy()
    np.testing.assert_allclose(model(ids.astype(np.int32)), theirs, atol=1e-4)
