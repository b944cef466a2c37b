"""Training: packed equals unpacked, accumulation and meshes change nothing, resume is exact."""

import dataclasses
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from medsjax import convert, input_pipeline, optim, packing, train, workdir
from medsjax import step as steps
from medsjax.config import Config, Optim, Run
from medsjax.errors import UserError
from medsjax.sharding import batch_sharding, make_mesh, one_device


@dataclasses.dataclass(frozen=True)
class Repeat:
    """A dataset of (ids, mask) pairs: random ids, then the same ids as targets."""

    n: int = 60
    salt: int = 0

    def open(self, tokenizer, length: int, seed: int) -> "RepeatSource":
        return RepeatSource(self, tokenizer.vocab_size, seed)


class RepeatSource:
    def __init__(self, data: Repeat, vocab: int, seed: int):
        self.data, self.vocab, self.seed = data, vocab, seed
        self.fingerprint = hashlib.sha256(repr((data, vocab, seed)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.data.n

    def __getitem__(self, i: int):
        rng = np.random.default_rng((self.seed, self.data.salt, i))
        half = rng.integers(0, self.vocab, rng.integers(2, 12)).astype(np.int32)
        return np.tile(half, 2), np.repeat([False, True], len(half))


def lay_out(examples: list[list[int]], source, length: int) -> dict:
    return input_pipeline.assemble([[source[i] for i in row] for row in examples], length)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return convert.load(tiny_folder, dtype="float32")[0]


@pytest.fixture
def cfg(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(train, "make_mesh", lambda *_: one_device())  # compiles much faster than 8
    return Config(
        model=str(tiny_folder),
        data=Repeat(),
        heldout=Repeat(8, salt=1),
        **{"length": 32, "batch": 8, "epochs": 2.4, "dtype": "float32"},
        optim=Optim(lr=1e-2),
        workdir=str(tmp_path / "run"),
        run=Run(log_every=1, save_every=2, keep=3, bench_at="none", remat="none"),
    )


def losses(workdir) -> list[tuple[int, float]]:
    rows = [json.loads(x) for x in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("loss"), row.get("heldout_loss")) for row in rows]


def sums_and_grads(model, batch):
    f = jax.jit(jax.value_and_grad(partial(steps.loss_sum, remat="none")))
    return f(model, {k: v for k, v in batch.items() if k.endswith("_BT")})


def test_a_packed_batch_gives_the_loss_and_gradients_of_its_examples_alone(model):
    source = RepeatSource(Repeat(), model.dims.V, 0)
    packed = lay_out([[0, 1, 2], [3, 4], [5]], source, 64)
    alone = lay_out([[i] for i in range(6)], source, 64)
    (a, grads_a), (b, grads_b) = sums_and_grads(model, packed), sums_and_grads(model, alone)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(grads_a), jax.tree.leaves(grads_b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * float(np.abs(y).max()))


def test_remat_changes_no_gradient(model):
    batch = lay_out([[0, 1], [2]], RepeatSource(Repeat(), model.dims.V, 0), 64)
    batch = {k: v for k, v in batch.items() if k.endswith("_BT")}
    grads, memory = {}, {}
    for remat in ("full", "qkv_context", "none"):
        grad = jax.jit(jax.grad(partial(steps.loss_sum, remat=remat))).lower(model, batch).compile()
        grads[remat] = grad(model, batch)
        memory[remat] = grad.memory_analysis().temp_size_in_bytes
    for remat in ("full", "qkv_context"):
        for x, y in zip(*map(jax.tree.leaves, (grads["none"], grads[remat])), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert memory["full"] < memory["qkv_context"] < memory["none"]


def test_bfloat16_compute_updates_a_float32_master(tiny_folder):
    kept, _ = convert.load(tiny_folder, dtype="float32")
    model, _ = convert.load(tiny_folder, dtype="float32", compute_dtype="bfloat16")
    batch = lay_out([[0, 1], [2]], RepeatSource(Repeat(), model.dims.V, 0), 64)
    batch = {k: v for k, v in batch.items() if k.endswith("_BT")}
    inputs = (batch["tokens_BT"], batch["positions_BT"], batch["segments_BT"])
    assert model.hidden(*inputs).dtype == "bfloat16" and model(*inputs).dtype == "float32"

    optimizer = optim.make(Optim(lr=1e-5, warmup=0.0), 10)
    step = partial(steps.train_step, optimizer=optimizer, remat="none")
    tuned, opt_state, seen = jax.jit(partial(step, accumulate=2))(
        model, optimizer.init(model), batch
    )
    np.testing.assert_allclose(
        seen["loss"] * seen["targets"], steps.loss_sum(kept, batch, "none"), rtol=1e-2
    )
    assert {a.dtype.name for a in jax.tree.leaves(tuned)} == {"float32"}
    assert {a.dtype.name for a in jax.tree.leaves(opt_state)} <= {"float32", "int32"}
    before, after = model.blocks.q_NHD[...], tuned.blocks.q_NHD[...]
    lost = np.asarray(before.astype("bfloat16") == after.astype("bfloat16"))
    assert lost.mean() > 0.5 and (np.asarray(before != after)[lost]).mean() > 0.9


def run_steps(tiny_folder, mesh, accumulate: int, n: int = 5):
    """Losses of n steps over the same batches, and the last state."""
    optimizer = optim.make(Optim(lr=1e-2), n)
    abstract = convert.abstract(Path(tiny_folder), mesh, "float32", "float32")
    state = steps.abstract_state(abstract, optimizer, mesh)
    update = steps.jit_step(state, optimizer, accumulate, remat="full")
    source = RepeatSource(Repeat(), abstract.dims.V, 0)
    lengths = np.array([len(source[i][0]) for i in range(len(source))])
    settings = {"length": 32, "batch": 8, "epochs": 9.0, "seed": 0, "workers": 0}
    hosts = {"process_index": 0, "process_count": 1, "start_step": 0}
    rows = packing.pack(lengths, 32)
    batches = input_pipeline.batches(source, rows, lengths, **settings, **hosts)
    seen = []
    with jax.set_mesh(mesh):
        model, _ = convert.load(tiny_folder, mesh, "float32")
        opt_state = steps.init_opt(optimizer, state[1], model)
        for _, batch in zip(range(n), batches, strict=False):
            placed = input_pipeline.put(batch, batch_sharding(mesh))
            model, opt_state, out = update(model, opt_state, placed)
            seen.append(float(out["loss"]))
    batches.close()
    return seen, model, opt_state


@pytest.fixture(scope="module")
def reference(tiny_folder):
    return run_steps(tiny_folder, one_device(), 1)[0]


def test_four_accumulation_parts_give_the_losses_of_one(tiny_folder, reference):
    assert reference[-1] < reference[0]
    np.testing.assert_allclose(run_steps(tiny_folder, one_device(), 4)[0], reference, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1), (4, 2)])
def test_a_mesh_of_eight_gives_the_losses_of_one_device(tiny_folder, reference, shape):
    seen, model, opt_state = run_steps(tiny_folder, make_mesh(*shape), 1)
    np.testing.assert_allclose(seen, reference, rtol=1e-5)
    adam = next(s for s in jax.tree.leaves(opt_state, is_leaf=lambda s: hasattr(s, "mu")) if s.mu)
    for tree in (model, adam.mu, adam.nu):
        for name in ("q_NHD", "o_DNH", "gate_FD", "down_DF"):
            a = getattr(tree.blocks, name)[...]
            assert a.addressable_shards[0].data.size * 8 == a.size, name


def test_the_warm_up_rises_to_lr_and_the_cosine_ends_at_its_share():
    rate = optim.schedule(Optim(lr=2e-3, warmup=0.1, final=0.1), 100)
    np.testing.assert_allclose(rate(0), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(9), 2e-3, rtol=1e-6)
    assert all(rate(s) >= rate(s + 1) for s in range(9, 99))
    np.testing.assert_allclose(rate(99), 2e-4, rtol=1e-6)


def test_killed_half_way_the_same_command_ends_in_the_same_bits(cfg, capsys, monkeypatch):
    whole = dataclasses.replace(cfg, workdir=cfg.workdir + "-whole")
    train.train(whole)
    steps = losses(whole.workdir)
    assert [s[0] for s in steps] == list(range(len(steps))) and steps[-1][2] < steps[0][2]

    calls = []

    def killed(self, step, *rest, **more):
        calls.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return original(self, step, *rest, **more)

    original = train.metrics.Log.step
    monkeypatch.setattr(train.metrics.Log, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(cfg)
    monkeypatch.setattr(train.metrics.Log, "step", original)
    train.train(cfg)
    assert losses(cfg.workdir) == steps
    for path in sorted(Path(whole.workdir, "hf").iterdir()):
        assert Path(cfg.workdir, "hf", path.name).read_bytes() == path.read_bytes(), path.name

    capsys.readouterr()
    train.train(cfg)
    assert "nothing left to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "data"),  # a dataset's choices are keyed by the seed
        ({"data": Repeat(salt=3)}, "data"),
        ({"batch": 16}, "batch"),
        ({"epochs": 2.0}, "epochs"),
        ({"length": 64}, "length"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"optim": Optim(lr=1e-3)}, "optim.lr"),
    ],
)
def test_resuming_as_another_run_is_refused_by_name(cfg, change, key, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda *_: pytest.skip("started"))
    with pytest.raises(pytest.skip.Exception):
        train.train(cfg)
    with pytest.raises(UserError, match=f"was started with {key}="):
        train.train(dataclasses.replace(cfg, **change))


def test_another_model_is_another_run_and_its_path_is_not(cfg, tmp_path):
    moved = shutil.copytree(cfg.model, tmp_path / "moved")
    assert workdir.weights_sha256(moved) == workdir.weights_sha256(Path(cfg.model))
    raw = bytearray((moved / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (moved / "model.safetensors").write_bytes(raw)
    assert workdir.weights_sha256(moved) != workdir.weights_sha256(Path(cfg.model))


def test_a_flipped_bit_in_a_checkpoint_is_refused(cfg, monkeypatch):
    train.train(cfg)
    sums = train.Checkpoints.restore.__globals__["checksums"]
    wrong = {}

    def flipped(tree):
        wrong.update(sums(tree))
        return {k: v ^ 1 for k, v in sums(tree).items()}

    shutil.rmtree(Path(cfg.workdir) / "hf")
    monkeypatch.setitem(train.Checkpoints.restore.__globals__, "checksums", flipped)
    with pytest.raises(UserError, match=r"checkpoints/\d+: the checkpoint is damaged \(checksum"):
        train.train(cfg)


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(cfg):
    with pytest.raises(UserError, match="the loss is nan"):
        train.train(dataclasses.replace(cfg, optim=Optim(lr=1e30)))


def test_a_bench_that_could_not_run_is_refused_before_training(cfg):
    @dataclasses.dataclass(frozen=True)
    class Impossible:
        def check(self):
            raise UserError("bench.path: nothing there")

        def __call__(self, *_):
            raise AssertionError("it was checked first")

    run = dataclasses.replace(cfg.run, bench_at="end")
    with pytest.raises(UserError, match="nothing there"):
        train.train(dataclasses.replace(cfg, bench=Impossible(), run=run))
    assert not Path(cfg.workdir).exists()


def test_batch_and_mesh_that_do_not_fit_are_refused(cfg, monkeypatch):
    monkeypatch.setattr(train, "make_mesh", make_mesh)
    with pytest.raises(UserError, match="multiple of the 8 devices"):
        train.train(dataclasses.replace(cfg, batch=4))
    with pytest.raises(UserError, match="does not use all 8 devices"):
        train.train(dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, mesh=(3, 2))))


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(cfg, monkeypatch):
    real = train.jit_step

    def poisoned(*args):
        step = real(*args)

        def update(model, opt_state, batch, base):
            model, opt_state, seen = step(model, opt_state, batch, base)
            return model, opt_state, {**seen, "grad_norm": np.float32(np.nan)}

        return update

    monkeypatch.setattr(train, "jit_step", poisoned)
    run = dataclasses.replace(cfg.run, log_every=1000, save_every=2)
    with pytest.raises(UserError, match="gradient's norm nan"):
        train.train(dataclasses.replace(cfg, run=run))
    assert not list(Path(cfg.workdir).glob("checkpoints/[0-9]*"))


def test_too_small_a_disk_is_said_before_the_first_step(cfg, monkeypatch):
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 9))
    with pytest.raises(UserError, match="GB are free"):
        train.train(cfg)


def test_a_step_too_big_for_the_device_says_what_to_change(cfg, monkeypatch):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(train, "fit", full)
    with pytest.raises(UserError, match="accumulate"):
        train.train(cfg)


def test_an_export_of_fewer_steps_does_not_count_as_finished(cfg, monkeypatch, capsys):
    """A run made longer and killed between its last checkpoint and the export."""
    train.train(cfg)
    longer = dataclasses.replace(
        cfg, epochs=2 * cfg.epochs, run=dataclasses.replace(cfg.run, force_resume=True)
    )

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.convert, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(longer)
    monkeypatch.undo()
    weights = Path(cfg.workdir, "hf/model.safetensors")
    before = weights.read_bytes()
    train.train(longer)
    assert "nothing left to do" not in capsys.readouterr().out
    assert weights.read_bytes() != before
    assert (
        f"for {losses(cfg.workdir)[-1][0]} steps" in Path(cfg.workdir, "hf/README.md").read_text()
    )
    train.train(longer)
    assert "nothing left to do" in capsys.readouterr().out


def test_a_finished_run_tells_when_other_scores_are_asked_for(cfg, capsys):
    train.train(cfg)
    train.train(cfg)
    assert "differ" not in capsys.readouterr().out
    heldout = dataclasses.replace(cfg.data)
    train.train(dataclasses.replace(cfg, heldout=None if cfg.heldout else heldout))
    assert "differ" in capsys.readouterr().out
