"""LoRA: the base to the bit at the start, gradients by the chain rule, adapters alone are kept."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import load_file

from medsjax import checkpoint, convert, lora, optim, train
from medsjax import step as steps
from medsjax.config import Config, LoRA, Optim, Run
from medsjax.errors import UserError
from medsjax.sharding import make_mesh, one_device
from tests import tiny
from tests.test_train import Repeat

SETTINGS = LoRA(rank=3, alpha=6.0)
SIMPLER = (((1, 1), 4), ((8, 1), 1))


@pytest.fixture(scope="module")
def base(tiny_folder):
    return convert.load(tiny_folder, dtype="float32")[0]


def random_adapters(base, settings=SETTINGS, seed=0) -> lora.Adapters:
    """Adapters whose B is not zero."""
    mesh = base.embed_VD[...].sharding.mesh
    adapters = lora.init(lora.abstract(base, settings, mesh), seed)
    rng = np.random.default_rng(seed)
    B = {t: jnp.asarray(rng.normal(size=b.shape) * 0.1, jnp.float32) for t, b in adapters.B.items()}
    return dataclasses.replace(adapters, B=B)


def batch(rows=4, length=32, seed=0) -> dict:
    tokens = tiny.tokens(rows, length, seed=seed)
    ones = np.ones_like(tokens)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {
        **{"tokens_BT": tokens, "targets_BT": np.roll(tokens, -1, 1), "positions_BT": positions},
        **{"segments_BT": ones, "loss_mask_BT": np.arange(length) % 3 > 0 * ones},
    }


def plainly_merged(base, adapters: lora.Adapters):
    """The base with W + alpha/rank B A in float64, target by target, layer by layer."""
    model = jax.tree.map(lambda a: a, base)
    for target, (name, out, _) in lora.WEIGHTS.items():
        if target not in adapters.A:
            continue
        param = getattr(model.blocks, name)
        layers = []
        for W, A, B in zip(param[...], adapters.A[target], adapters.B[target], strict=True):
            A, B = np.asarray(A, np.float64), np.asarray(B, np.float64)
            rank = len(A)
            product = B.reshape(-1, rank) @ A.reshape(rank, -1)
            layers.append(np.asarray(W, np.float64) + adapters.scale * product.reshape(W.shape))
        assert len(out) < param[...].ndim
        param.set_value(jnp.asarray(np.stack(layers), jnp.float32))
    return model


def test_at_the_start_it_is_the_base_to_the_bit(base):
    adapters = lora.init(lora.abstract(base, SETTINGS, one_device()), seed=1)
    args = (batch(), "none")
    ours = jax.jit(steps.loss_sum, static_argnums=2)(adapters, *args, base)
    assert ours == jax.jit(steps.loss_sum, static_argnums=2)(base, *args)
    for target, a in adapters.A.items():
        edge = np.prod(a.shape[2:]) ** -0.5
        assert 0.9 * edge < float(jnp.abs(a).max()) <= edge, target


@pytest.mark.parametrize(
    ("remat", "targets"), [("full", SETTINGS.targets), ("none", ("q_proj", "down_proj"))]
)
def test_loss_and_gradients_follow_the_chain_rule_through_merged_weights(targets, remat, base):
    """dA = s B^T dW, dB = s dW A^T, with dW the gradient of the merged model's weights."""
    adapters = random_adapters(base, dataclasses.replace(SETTINGS, targets=targets))
    model = plainly_merged(base, adapters)
    step = jax.jit(jax.value_and_grad(steps.loss_sum), static_argnums=2)
    loss, grads = step(adapters, batch(), remat, base)
    wanted, d_model = step(model, batch(), remat)
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert set(grads.A) == set(grads.B) == set(targets)
    for target in targets:
        dW = np.asarray(getattr(d_model.blocks, lora.WEIGHTS[target][0])[...], np.float64)
        A, B = (np.asarray(x[target], np.float64) for x in (adapters.A, adapters.B))
        L, R = A.shape[:2]
        A, B = A.reshape(L, R, -1), B.reshape(L, -1, R)
        dW = adapters.scale * dW.reshape(L, B.shape[1], A.shape[2])
        pairs = ((grads.A[target], B.swapaxes(1, 2) @ dW), (grads.B[target], dW @ A.swapaxes(1, 2)))
        for ours, theirs in pairs:
            close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(theirs).max()}
            np.testing.assert_allclose(np.asarray(ours).reshape(theirs.shape), theirs, **close)


def start(folder: Path, mesh, accumulate=1):
    """(compiled update, adapters, optimizer state, base)."""
    data = Config(model=str(folder), data=Repeat(), lora=SETTINGS, dtype="float32")
    optimizer = optim.make(Optim(lr=1e-2), 10)
    state, _ = steps.abstract_start(data, folder, optimizer, mesh)
    base, _ = convert.load(folder, mesh, "float32")
    with jax.set_mesh(mesh):
        adapters = lora.init(state[0], 0)
        opt_state = steps.init_opt(optimizer, state[1], adapters)
    return steps.jit_step(state, optimizer, accumulate, "full"), adapters, opt_state, base


@pytest.mark.parametrize(
    ("shape", "accumulate"),
    [((4, 2), 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in SIMPLER)],
)
def test_neither_mesh_nor_accumulation_changes_a_step(shape, accumulate, tiny_folder):
    ends = []
    devices = jax.devices()[: shape[0] * shape[1]]
    for mesh, parts in ((one_device(), 1), (make_mesh(*shape, devices=devices), accumulate)):
        update, adapters, opt_state, base = start(tiny_folder, mesh, parts)
        with jax.set_mesh(mesh):
            for seed in range(3):
                rows = batch(rows=16, seed=seed)
                adapters, opt_state, seen = update(adapters, opt_state, rows, base)
        ends.append((jax.device_get(adapters), float(seen["loss"])))
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (ends[0][0], ends[1][0])), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_gradients_and_optimizer_state_are_the_adapters_alone(tiny_folder):
    _, adapters, opt_state, base = start(tiny_folder, one_device())
    of_adapters = sorted(leaf.shape for leaf in jax.tree.leaves(adapters))
    moments = sorted(leaf.shape for leaf in jax.tree.leaves(opt_state) if leaf.ndim)
    assert moments == sorted(2 * of_adapters)
    assert sum(map(np.prod, of_adapters)) < sum(leaf.size for leaf in jax.tree.leaves(base)) / 4


def test_a_small_change_beside_bfloat16_weights_is_not_lost(base):
    """Below half a weight's last bit everywhere, which in the weights would vanish."""
    block = nnx.clone(jax.tree.map(lambda a: a[0].astype(jnp.bfloat16), base.blocks))
    signs = np.random.default_rng(0).choice([-1, 1], size=(16, 1024))
    block.up_FD.set_value(jnp.asarray(signs, jnp.bfloat16))
    A, B = {"up_proj": jnp.ones((1, 1024))}, {"up_proj": jnp.full((16, 1), 1e-3)}
    adapters = lora.Adapters(A, B, scale=1.0)
    x = jnp.ones((1, 1, 1024), jnp.bfloat16)

    def change(of) -> float:
        after, before = (b.product("BTD,FD->BTF", x, "up_FD") for b in (of, block))
        return float((after.astype(jnp.float32) - before.astype(jnp.float32)).mean())

    assert change(lora.merge(block, adapters)) == 0
    assert change(lora.AdaptedBlock(block, adapters)) == pytest.approx(1.024, rel=0.1)


def test_no_product_of_a_weights_size_is_made(base):
    """Neither B A nor W's own gradient: of all weights, those of the base's step are."""

    def products(trained, *rest) -> set[str]:
        step = jax.make_jaxpr(jax.grad(steps.loss_sum), static_argnums=2)
        program = str(step(trained, batch(), "full", *rest))
        return set(re.findall(r":f32\[([\d,]+)\] = dot_general", program))

    up_or_gate = {"48,32"}
    assert up_or_gate <= products(base)
    assert not up_or_gate & products(random_adapters(base), base)


def config(folder: Path, workdir: Path, **changes) -> Config:
    settings = {
        **{"model": str(folder), "data": Repeat(), "heldout": Repeat(), "length": 64},
        **{"batch": 8, "epochs": 3.0, "optim": Optim(lr=1e-2), "dtype": "float32"},
        **{"lora": SETTINGS, "workdir": str(workdir), "run": Run(log_every=1, save_every=2)},
    }
    return Config(**settings | changes)


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("lora") / "run"
    train.train(config(tiny_folder, workdir))
    return workdir


def test_a_run_learns_and_exports_merged_weights_and_peft_adapters(run, tiny_folder, tmp_path):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["heldout_loss"] for row in rows if "heldout_loss" in row]
    assert losses[-1] < losses[0]
    about = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"], about["peft_type"]) == (3, 6.0, "LORA")
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    merged, before = (
        load_file(run / "hf/model.safetensors"),
        load_file(tiny_folder / "model.safetensors"),
    )
    changed = 0
    for name, W in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = W.astype(np.float64)
        if f"{key}.lora_A.weight" in tensors:
            A, B = (tensors[f"{key}.lora_{x}.weight"].astype(np.float64) for x in "AB")
            wanted, changed = wanted + 2.0 * (B @ A), changed + 1
            assert np.abs(B).max() > 0
        np.testing.assert_allclose(merged[name].astype(np.float64), wanted, atol=1e-6)
    assert changed == 14 and len(tensors) == 28
    convert_run = convert.from_run(run, None, one_device())[0]
    convert.save(convert_run, convert.load(tiny_folder)[1], tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    for name in merged:  # but for the order of sums on another mesh
        np.testing.assert_allclose(again[name], merged[name], atol=1e-6)


def test_a_checkpoint_holds_no_base(run):
    checkpoints = checkpoint.Checkpoints(run / "checkpoints", 2, jnp.zeros(1), 10**9)
    parts = ocp.args.Composite(meta=ocp.args.JsonRestore())
    names = checkpoints.manager.restore(checkpoints.latest, args=parts).meta["checksums"]
    assert len(names) > 28 and not [name for name in names if "embed" in name or "norm" in name]


def test_stopped_and_resumed_it_ends_in_the_same_bits(run, tiny_folder, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    save = checkpoint.Checkpoints.save

    def save_then_die(self, step, tree):
        save(self, step, tree)
        self.close()
        raise Killed

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_then_die)
    with pytest.raises(Killed):
        train.train(config(tiny_folder, tmp_path / "run"))
    monkeypatch.undo()
    train.train(config(tiny_folder, tmp_path / "run"))
    for file in ("hf/model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()
    for other in (dataclasses.replace(SETTINGS, alpha=7.0), LoRA()):
        with pytest.raises(UserError, match=r"started with lora\."):
            train.train(config(tiny_folder, tmp_path / "run", lora=other))


def test_adapters_go_into_their_own_base_alone(run, tmp_path):
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    settings = json.loads((copied / "config.json").read_text())
    settings["model"] = str(tiny.write(tmp_path / "other", seed=1))
    (copied / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"other: not the weights whose adapters .*run holds"):
        convert.from_run(copied, None, one_device())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": -1}, "lora.rank=-1"),
        ({"rank": 4, "alpha": 0.0}, "lora.alpha=0.0"),
        ({"rank": 4, "targets": ("q",)}, "some of q_proj k_proj"),
        ({"rank": 4, "targets": ()}, "some of q_proj k_proj"),
        ({"rank": 4, "targets": ("q_proj", "q_proj")}, "each once"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        LoRA(**wrong)


@pytest.mark.slow
def test_peft_gives_the_same_logits(run, tiny_folder):
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch)")
    peft = pytest.importorskip("peft", reason="needs the extra `parity` (peft)")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, run / "adapter")
    tokens = tiny.tokens(2, 40, seed=5)
    with torch.no_grad():
        wanted = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    ours, _ = convert.load(run / "hf", dtype="float32")
    np.testing.assert_allclose(ours(tokens), wanted, atol=1e-4)
