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
import numpy as np
from jax.sharding import Mesh

from medsjax import (
    attention,
    cards,
    checkpoint,
    config,
    convert,
    hosts,
    input_pipeline,
    lora,
    metrics,
    optim,
    packing,
)
from medsjax import workdir as workdirs
from medsjax.checkpoint import Checkpoints
from medsjax.errors import UserError, run_main
from medsjax.hosts import Hosts
from medsjax.model import Llama
from medsjax.sharding import batch_sharding, host_rows, make_mesh
from medsjax.step import abstract_start, init_opt, jit_step, loss_sum
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


class Heldout:
    """Mean loss over a held-out set: one pass, one number."""

    def __init__(self, dataset, tokenizer: Tokenizer, cfg: config.Config, mesh: Mesh):
        self.plan = Plan.of(dataset, tokenizer, cfg, "held-out")
        self.rows = cfg.batch // cfg.run.accumulate  # what fits in training, fits here
        self.mesh = mesh
        loss = partial(loss_sum, remat="none")
        self.step = jax.jit(lambda m, b, base: (loss(m, b, base=base), b["loss_mask_BT"].sum()))

    def __call__(self, model, base: Llama | None = None, stop=lambda: False) -> float | None:
        """None where `stop`, asked at every batch, ended it."""
        total = targets = 0.0
        p = self.plan
        shape = {"length": p.length, "batch": self.rows, **host_rows(self.mesh)}
        for batch in input_pipeline.heldout_batches(p.source, p.rows, p.lengths, **shape):
            nll, n = self.step(model, input_pipeline.put(batch, batch_sharding(self.mesh)), base)
            if stop():
                return None
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
    who = workdirs.identity(cfg, us, folder, tokenizer, plan.source)
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
        (workdir / workdirs.FINISHED).unlink(missing_ok=True)
        workdirs.write_json(workdir / "config.json", config.to_dict(cfg))
    us.say(f"{workdir}: {plan.describe()}, {steps} steps, mesh {dict(mesh.shape)}")

    bench(cfg, folder, "start", 0)
    with told_if_too_big(cfg):
        model = fit(cfg, us, plan, heldout, steps, mesh, folder)
    stored = convert.stored_dtype(folder)
    if cfg.lora.rank:
        lora.save(model, cfg.lora, cfg.model, workdir / "adapter", us.index == 0)
        model = convert.merged(folder, mesh, model, stored)
    convert.save(model, tokenizer, workdir / "hf", stored, cards.of_run(workdir, steps))
    us.say(f"{workdir}/hf: the tuned model, {stored}{workdirs.heldout_change(workdir)}")
    del model
    bench(cfg, workdir / "hf", "end", steps)
    if us.index == 0:
        cards.put(workdir / "hf", cards.of_run(workdir, steps))  # now with scores
        if hasattr(cfg.bench, "report"):
            cfg.bench.report(workdir)
        workdirs.write_json(workdir / workdirs.FINISHED, {"steps": steps})


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
            "device's memory; raise run.accumulate, set run.remat=full, use more devices, or on a "
            "GPU export XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 (JAX takes 0.75 of it else)"
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
    model, opened = convert.load_to_sample(folder, cfg.dtype, tokenizer)
    cfg.bench(model, opened, step, Path(cfg.workdir) / "eval" / f"step_{step}")


def begin(cfg: config.Config, us: Hosts, checkpoints, state, optimizer, mesh, folder: Path):
    """(steps done, what is trained, optimizer state, base of adapters or None): those of the last
    checkpoint, or the start weights. A base is never in a checkpoint."""
    us.agree("checkpoint", {"the last checkpoint": checkpoints.latest})
    base, tokenizer = None, {"tokenizer": cfg.tokenizer}
    if cfg.lora.rank:
        base, _ = convert.load(folder, mesh, cfg.dtype, **tokenizer)
    if checkpoints.latest is None:
        if base is None:
            kinds = {"compute_dtype": cfg.dtype, **tokenizer}
            model, _ = convert.load(folder, mesh, "float32", **kinds)
        else:
            model = lora.init(state[0], cfg.seed)
        return 0, model, init_opt(optimizer, state[1], model), base
    start, (model, opt_state) = checkpoints.restore(state)
    us.say(f"{cfg.workdir}: resuming after step {start}")
    return start, model, opt_state, base


def fit(cfg: config.Config, us: Hosts, plan: Plan, heldout, steps: int, mesh: Mesh, folder: Path):
    """The training loop, from the last checkpoint if there is one; gives what is trained."""
    workdir, optimizer = Path(cfg.workdir), optim.make(cfg.optim, steps)
    state, _ = abstract_start(cfg, folder, optimizer, mesh)
    space = min(us.gather("room", checkpoint.room()))
    checkpoints = Checkpoints(workdir / "checkpoints", cfg.run.keep, state, space)
    if us.index == 0:
        workdirs.check_space(workdir, state, cfg.run.keep)
    dims = convert.read_config(folder)[1]
    attention.check(dims.N, dims.K, dims.H, cfg.dtype)
    update = jit_step(state, optimizer, cfg.run.accumulate, cfg.run.remat)
    with jax.set_mesh(mesh):
        start, model, opt_state, base = begin(cfg, us, checkpoints, state, optimizer, mesh, folder)
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
            flops=metrics.train_flops(dims, cfg.length, base is not None),
        )
        if heldout and start == 0:
            log.write({"step": 0, "heldout_loss": heldout(model, base)})
        elif heldout and us.from_first("cut off", lambda: log.file.cut_off):
            log.complete(heldout(model, base))
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
                model, opt_state, seen = update(model, opt_state, placed, base)
                stop = us.sigterm.reached(step)
                jax.block_until_ready(before)  # else SIGTERM would find many steps under way
                every = cfg.run.eval_every
                measure = heldout and (step == steps or (every and step % every == 0))
                save = stop or step == steps or step % cfg.run.save_every == 0
                row = log.step(step, seen, batch["n_examples"], force=measure or save)
                if row and measure:
                    reached = partial(us.sigterm.reached, step)
                    row["heldout_loss"] = None if stop else heldout(model, base, reached)
                    stop = row["heldout_loss"] is None
                    save = save or stop
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
