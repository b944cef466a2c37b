"""python -m medsjax.train --config NAME: an HF folder in, tuned on packed rows, an HF folder out.

The same command again resumes; when all is done it says so. Order of a run: bench of the checkpoint
as it came, training with held-out loss, last checkpoint, export, bench of the export, report.
SIGTERM saves the step that runs and ends with exit code 0.

Several hosts: the same command on each, with one workdir for all. Those of a Cloud TPU slice find
each other; elsewhere set JAX_COORDINATOR_ADDRESS=HOST0:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import contextlib
import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax import cards, config, convert, hosts, input_pipeline, metrics, optim, packing
from medsjax import workdir as workdirs
from medsjax.accumulate import add_gradients
from medsjax.checkpoint import Checkpoints, flat
from medsjax.errors import UserError, run_main
from medsjax.hosts import Hosts
from medsjax.loss import nll_sum
from medsjax.model import Llama
from medsjax.sharding import batch_sharding, host_rows, make_mesh
from medsjax.tokenizer import Tokenizer

CACHE = Path("runs/cache")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The data of a run, laid out: every batch follows from it and the step."""

    source: object
    lengths: np.ndarray
    lost: dict[str, int]  # examples that gave something up to fit
    rows: packing.Rows
    length: int
    batch: int

    @property
    def fingerprint(self) -> str:
        """Of the examples and their lengths, from which the rows follow."""
        lengths = hashlib.sha256(self.lengths.tobytes()).hexdigest()
        return f"{self.source.fingerprint} {lengths}"

    @classmethod
    def of(cls, dataset, tokenizer: Tokenizer, cfg: config.Config, desc: str) -> "Plan":
        source = dataset.open(tokenizer, cfg.length, cfg.seed)
        if not len(source):
            raise UserError(f"{desc}: no examples; check its tasks and part")
        cache = CACHE / "lengths"
        lengths, lost = packing.measure(source, cache, f"{desc}: measuring lengths")
        rows = packing.pack(lengths, cfg.length)
        return cls(source, lengths, lost, rows, cfg.length, cfg.batch)

    def describe(self) -> str:
        share = packing.fill(self.rows, self.lengths, self.length)
        lost = ", ".join(f"{n:,} {what}" for what, n in self.lost.items() if n)
        return (
            f"{len(self.lengths):,} examples, {int(self.lengths.sum()):,} tokens in "
            f"{len(self.rows):,} rows of {self.length} ({share:.2%} full), "
            f"{len(self.lengths) / len(self.rows) * self.batch:.0f} examples a step"
            + (f"; to fit, {lost}" if lost else "")
        )


def loss_sum(model: Llama, batch: dict, remat: str) -> jax.Array:
    """Summed negative log-likelihood of a packed batch's targets, float32."""
    x_BTD = model.hidden(
        batch["tokens_BT"], batch["positions_BT"], batch["segments_BT"], remat=remat
    )
    return nll_sum(x_BTD, model.output_VD, batch["targets_BT"], batch["loss_mask_BT"])


def train_step(model: Llama, opt_state, batch: dict, *, optimizer, accumulate: int, remat: str):
    """One update: loss = summed NLL / targets of the whole batch (the paper's equation 2).

    `accumulate` splits the rows into that many parts, whose gradients are summed in float32 before
    the one division, so the result does not depend on it.
    """
    value_and_grad = jax.value_and_grad(partial(loss_sum, remat=remat))
    if accumulate == 1:
        total, grads = value_and_grad(model, batch)
    else:

        def part(carry, micro):
            if remat == "full":  # what it does anyway, and no second buffer of the gradients' size
                return add_gradients(model, *carry, micro), None
            return jax.tree.map(jnp.add, carry, value_and_grad(model, micro)), None

        def split(a_BT):  # strided rows: each part has its share of every device's rows
            return a_BT.reshape(-1, accumulate, a_BT.shape[1]).swapaxes(0, 1)

        zeros = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, model))
        (total, grads), _ = jax.lax.scan(part, zeros, jax.tree.map(split, batch))
    targets = jnp.maximum(batch["loss_mask_BT"].sum(), 1)
    grads = jax.tree.map(lambda g: g / targets, grads)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    seen = {
        "loss": total / targets,
        "grad_norm": optax.global_norm(grads),
        "tokens": (batch["segments_BT"] > 0).sum(),
        "targets": batch["loss_mask_BT"].sum(),
    }
    return optax.apply_updates(model, updates), opt_state, seen


def abstract_state(model: Llama, optimizer, mesh: Mesh):
    """(model, optimizer state) as shapes with shardings; moments lie where their parameters do."""
    specs = {name: leaf.sharding.spec for name, leaf in flat(model).items()}
    opt_state = jax.eval_shape(optimizer.init, model)

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        spec = next((s for n, s in specs.items() if name.endswith(f".{n}")), P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return model, jax.tree_util.tree_map_with_path(place, opt_state)


def init_opt(optimizer, abstract_opt, model: Llama):
    """Zero moments, made where they belong."""
    shardings = jax.tree.map(lambda a: a.sharding, abstract_opt)
    return jax.jit(optimizer.init, out_shardings=shardings)(model)


def jit_step(state, optimizer, accumulate: int, remat: str):
    """The compiled update; `state` fixes what goes out where it came in, and is donated."""
    shardings = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(
        partial(train_step, optimizer=optimizer, accumulate=accumulate, remat=remat),
        donate_argnums=(0, 1),
        out_shardings=(*shardings, None),
    )


class Heldout:
    """Mean loss over a held-out set: one pass, one number."""

    def __init__(self, dataset, tokenizer: Tokenizer, cfg: config.Config, mesh: Mesh):
        self.plan = Plan.of(dataset, tokenizer, cfg, "held-out")
        self.rows = cfg.batch // cfg.run.accumulate  # what fits in training, fits here
        self.mesh = mesh
        self.step = jax.jit(lambda m, b: (loss_sum(m, b, "none"), b["loss_mask_BT"].sum()))

    def __call__(self, model: Llama) -> float:
        total = targets = 0.0
        p = self.plan
        shape = {"length": p.length, "batch": self.rows, **host_rows(self.mesh)}
        for batch in input_pipeline.heldout_batches(p.source, p.rows, p.lengths, **shape):
            nll, n = self.step(model, input_pipeline.put(batch, batch_sharding(self.mesh)))
            total, targets = total + float(nll), targets + float(n)
        return total / max(targets, 1.0)


def train(cfg: config.Config, us: Hosts | None = None) -> None:
    """Run or resume one experiment from beginning to end; on several hosts all call it."""
    workdir, us = Path(cfg.workdir), us or Hosts()
    if cfg.dtype == "float32":  # else TPUs and newer GPUs multiply float32 in fewer bits
        jax.config.update("jax_default_matmul_precision", "highest")
    mesh = make_mesh(*cfg.run.mesh)
    check_rows(cfg, mesh)
    for part in (cfg.data, cfg.heldout, cfg.bench if cfg.run.bench_at != "none" else None):
        if hasattr(part, "check"):
            part.check()  # now, not after gigabytes of weights or days of training
    folder = convert.resolve(cfg.model)
    _, tokenizer = convert.inspect(folder, cfg.tokenizer)
    plan = Plan.of(cfg.data, tokenizer, cfg, "data")
    steps = input_pipeline.n_steps(len(plan.rows), cfg.batch, cfg.epochs)
    heldout = cfg.heldout and Heldout(cfg.heldout, tokenizer, cfg, mesh)
    who = workdirs.identity(cfg, folder, tokenizer, plan.source)
    measured = {"lengths": plan.fingerprint, "heldout": heldout and heldout.plan.fingerprint}
    us.agree("data", {**who, **measured})
    if us.index == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = workdirs.claim(workdir)  # noqa: F841  (held while it lives)
        workdirs.check_identity(workdir, who, cfg.run.force_resume)
    if us.count > 1:
        workdirs.check_shared(workdir, us)
    if us.from_first("finished", lambda: workdirs.finished(cfg, workdir, steps)):
        us.say(f"{workdir}: all {steps} steps are done; there is nothing left to do")
        if us.index == 0 and workdirs.changed(workdir / "config.json", cfg):
            print(
                "  (settings of the bench or the held-out data differ from those it ran with; for "
                "other scores: python -m eval.run)"
            )
        return
    if us.index == 0:
        workdirs.write_json(workdir / "config.json", config.to_dict(cfg))
    us.say(f"{workdir}: {plan.describe()}, {steps} steps, mesh {dict(mesh.shape)}")

    bench(cfg, folder, "start", 0)
    with told_if_too_big(cfg):
        model = fit(cfg, us, plan, heldout, steps, mesh, folder)
    stored = convert.stored_dtype(folder)
    convert.save(model, tokenizer, workdir / "hf", stored, cards.of_run(workdir, steps))
    us.say(f"{workdir}/hf: the tuned model, {stored}{workdirs.heldout_change(workdir)}")
    del model
    bench(cfg, workdir / "hf", "end", steps)
    if us.index == 0:
        cards.put(workdir / "hf", cards.of_run(workdir, steps))  # now with scores
        if hasattr(cfg.bench, "report"):
            cfg.bench.report(workdir)


def check_rows(cfg: config.Config, mesh: Mesh) -> None:
    """Refuse parts of a step whose rows the mesh cannot share out."""
    if cfg.batch // cfg.run.accumulate % mesh.shape["fsdp"]:
        raise UserError(
            f"batch={cfg.batch} in {cfg.run.accumulate} parts: each part's rows must be a multiple "
            f"of the {mesh.shape['fsdp']} devices on fsdp; change batch, accumulate or run.mesh"
        )


@contextlib.contextmanager
def told_if_too_big(cfg: config.Config):
    """A device out of memory is one line, with what to change."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"batch={cfg.batch}, accumulate={cfg.run.accumulate}: a step does not fit into the "
            "device's memory; raise run.accumulate, set run.remat=full, or use more devices"
        ) from error


def bench(cfg: config.Config, folder: Path, at: str, step: int) -> None:
    """Scores of an HF folder as anyone would load it, in the compute dtype."""
    if cfg.bench is None or cfg.run.bench_at not in (at, "both"):
        return
    if jax.process_count() > 1:
        if jax.process_index() == 0:
            print("bench: skipped on several hosts; run `python -m eval.run` on the export")
        return
    tokenizer = cfg.tokenizer if at == "start" else ""
    mesh = convert.sampling_mesh(folder)
    model, opened = convert.load(folder, mesh, cfg.dtype, tokenizer=tokenizer)
    model.unstack()
    cfg.bench(model, opened, step, Path(cfg.workdir) / "eval" / f"step_{step}")


def begin(cfg: config.Config, us: Hosts, checkpoints, state, optimizer, mesh, folder: Path):
    """(steps done, model, optimizer state): those of the last checkpoint, or the start weights."""
    us.agree("checkpoint", {"the last checkpoint": checkpoints.latest})
    if checkpoints.latest is None:
        kinds = {"compute_dtype": cfg.dtype, "tokenizer": cfg.tokenizer}
        model, _ = convert.load(folder, mesh, "float32", **kinds)
        return 0, model, init_opt(optimizer, state[1], model)
    start, (model, opt_state) = checkpoints.restore(state)
    us.say(f"{cfg.workdir}: resuming after step {start}")
    return start, model, opt_state


def fit(
    cfg: config.Config, us: Hosts, plan: Plan, heldout, steps: int, mesh: Mesh, folder: Path
) -> Llama:
    """The training loop, from the last checkpoint if there is one; gives the trained model."""
    workdir, optimizer = Path(cfg.workdir), optim.make(cfg.optim, steps)
    checkpoints = Checkpoints(workdir / "checkpoints", cfg.run.keep)
    state = abstract_state(convert.abstract(folder, mesh, "float32", cfg.dtype), optimizer, mesh)
    if us.index == 0:
        workdirs.check_space(workdir, state, cfg.run.keep)
    update = jit_step(state, optimizer, cfg.run.accumulate, cfg.run.remat)
    with jax.set_mesh(mesh):
        start, model, opt_state = begin(cfg, us, checkpoints, state, optimizer, mesh, folder)
        if start > steps:
            raise UserError(
                f"{workdir}: its last checkpoint is step {start}, the run asked for ends at "
                f"{steps}; take another --config.workdir"
            )
        log = metrics.Log(
            workdir / "metrics.jsonl",
            *(start, steps, cfg.run.log_every),
            rate=optim.schedule(cfg.optim, steps),
            rows_per_epoch=len(plan.rows) / cfg.batch,
            flops=metrics.train_flops(model.dims, cfg.length),
        )
        if start == 0 and heldout:
            log.write({"step": 0, "heldout_loss": heldout(model)})
        batches = input_pipeline.batches(
            *(plan.source, plan.rows, plan.lengths),
            **{"length": plan.length, "batch": plan.batch, "epochs": cfg.epochs, "seed": cfg.seed},
            **{"start_step": start, "workers": cfg.run.workers, **host_rows(mesh)},
        )
        with us.sigterm.steps(), contextlib.closing(batches), contextlib.closing(log):
            seen = None
            for step, batch in enumerate(batches, start + 1):
                placed = input_pipeline.put(batch, batch_sharding(mesh))
                before = seen
                model, opt_state, seen = update(model, opt_state, placed)
                stop = us.sigterm.reached(step)
                jax.block_until_ready(before)  # else SIGTERM would find many steps under way
                every = cfg.run.eval_every
                measure = heldout and (step == steps or (every and step % every == 0))
                save = stop or step == steps or step % cfg.run.save_every == 0
                row = log.step(step, seen, batch["n_examples"], force=measure or save)
                if row and measure:
                    row["heldout_loss"] = heldout(model)
                if row:
                    log.write(row)
                if save:
                    checkpoints.save(step, (model, opt_state))
                if measure or save:
                    log.restart_clock()
                if stop:
                    break
            checkpoints.close()
    return model


def main() -> None:
    cfg = config.load(prog="python -m medsjax.train", about=__doc__, expect=config.Config)
    with hosts.joined(cfg) as us:
        train(cfg, us)


if __name__ == "__main__":
    run_main(main)
