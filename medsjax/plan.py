"""Does a run fit a machine that is not here, and how long does it take? Known before it is paid.

    python -m medsjax.plan --config NAME_OR_PATH --topology v5e:4x8 [--json FILE]

Compiles the very step that `train` runs with that config, or with --job eval the sampler, for any
config that names a model. It needs neither weights nor data nor the machine, but its compiler: pip
install -e '.[tpu-plan]' for TPUs, '.[gpu-plan]' for an H200. Exit code 0: it fits; 1: it does not,
and the nearest settings that do were looked for.
"""

import os

if __name__ == "__main__":  # read when jax and the compilers start, so before they are imported
    os.environ["JAX_PLATFORMS"] = "cpu"  # not a device that something else may be using
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-4", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import sys
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from medsjax import config, plan_report, plan_table, topologies
from medsjax.errors import Parser, UserError, run_main
from medsjax.plan_table import BATCH, LENGTH, MFU
from medsjax.sampler import SIZES
from medsjax.workdir import write_json


def show(r: dict) -> None:
    """A report as tables on the terminal."""
    title = f"{r['model']} ({r['shape']}) on {r['topology']}, {r['chips']} x {r['hbm_gib']} GiB"
    verdict = "fits" if r["fits"] else f"does not fit: {r['why_not']}"
    table = Table(title=f"{title}: {verdict}", title_justify="left", show_header=False)
    for name, text in (train_rows if r["job"] == "train" else sampler_rows)(r):
        table.add_row(name, text)
    table.add_row("compiled by", f"{r['compiler']}, in {r['seconds']:.0f} s; not run")
    Console().print(table)
    if r["collectives"]:
        table = Table("collective", "times", "GB a chip sends", title_justify="left")
        for c in r["collectives"]:
            table.add_row(c["kind"], f"{c['count']:,}", f"{c['gb']:,.3f}")
        Console().print(table)
    if r["topology"].startswith("h200"):
        print("on the machine: export XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 (JAX takes 0.75 else)")
    if best := r.get("nearest"):
        print(f"nearest that fits: {best['flags']}")
        print(f"  {best['peak_gib']} GiB a chip, {best['step_s']} s a step at {r['mfu']:.0%} MFU")
    elif r.get("tried"):
        print("nothing that fits was found")


def known(value, form: str = "{:,}") -> str:
    return "unknown" if value is None else form.format(value)


def train_rows(r: dict) -> list[tuple[str, str]]:
    trained = f" ({r['trained_gib']} trained)" if r["settings"]["lora_rank"] else ""
    parts = f"parameters {r['params_gib']}{trained}, optimizer {r['optimizer_gib']}"
    rest = f"temporaries {known(r['temporaries_gib'])}, peak {known(r['peak_gib'])}"
    work = f"{known(r['examples_per_step'])} examples, {r['flops_per_step']:.3e} FLOPs"
    run = f"{known(r['steps'])} steps, {known(r['days'])} days"
    return [
        ("settings", listed(r["settings"])),
        ("GiB a chip", f"{parts}, {rest}"),
        ("a checkpoint", f"{r['checkpoint_gb']} GB"),
        ("a step", f"{r['tokens_per_step']:,} tokens, {work}"),
        ("takes at least", listed(r["bounds_s"], " s")),
        (f"at {r['mfu']:.0%} MFU", f"{r['step_s']:.2f} s a step, {r['tokens_per_s']:,} tokens/s"),
        ("the whole run", f"{run}, {known(r['chip_hours'])} chip-hours"),
        ("data", r["data"]),
    ]


def sampler_rows(r: dict) -> list[tuple[str, str]]:
    held = f"weights {r['weights_gib']}, cache {r['cache_gib']}, peak {known(r['peak_gib'])}"
    share = (
        f"{known(r['decode_temporaries_gib'])} ({known(r['decode_share'], '{:.2%}')} of the cache)"
    )
    more = f"prefill {known(r['prefill_temporaries_gib'])}, decode {share}"
    rates = f"{r['decode_tokens_per_s']:,} made, {r['prefill_tokens_per_s']:,} read"
    return [
        ("settings", listed(r["settings"])),
        ("GiB a chip", held),
        ("temporaries", f"{more}, growing the cache {known(r['grow_temporaries_gib'])}"),
        ("a token a row takes at least", listed(r["decode_bounds_s"], " s")),
        ("tokens/s at most", rates),
        ("largest batch", f"{known(r['largest_batch'])} rows, {known(r['largest_peak_gib'])} GiB"),
    ]


def listed(values: dict, unit: str = "") -> str:
    return ", ".join(f"{name} {known(value, '{}')}{unit}" for name, value in values.items())


def main() -> None:
    args, rest = parser().parse_known_args()
    cfg = config.load(rest, prog="python -m medsjax.plan", about=about())
    if args.table:
        if [value for name, value in vars(args).items() if name != "table" and value is not None]:
            raise UserError(
                "--table plans all of its machines and both jobs; leave the other flags out"
            )
        print(plan_table.write(training(cfg), args.table))
        return
    if args.topology is None:
        raise UserError(f"--topology is missing; there are {', '.join(topologies.SLICES)}")
    topologies.chip(args.topology)
    if args.json:
        check_file(args.json)
    if getattr(cfg, "dtype", "") == "float32":  # as in train and eval.run
        jax.config.update("jax_default_matmul_precision", "highest")
    found = planned_sampler(cfg, args) if args.job == "eval" else planned_training(cfg, args)
    show(found)
    if args.json:
        write_json(args.json, found)
    sys.exit(0 if found["fits"] else 1)


def planned_training(cfg, args: argparse.Namespace) -> dict:
    training(cfg)
    mfu = MFU if args.mfu is None else args.mfu
    if args.batch is not None or args.length is not None:
        raise UserError("--batch and --length are for --job eval; here --config.batch, .length")
    if not 0.001 <= mfu <= 1:
        raise UserError(f"--mfu {mfu}: a share of the peak, 0.001 to 1")
    if args.tokens is not None and args.tokens < 1:
        raise UserError(f"--tokens {args.tokens}: the tokens of an epoch, 1 or more")
    if cfg.length > SIZES[-1]:
        raise UserError(f"config.length={cfg.length}: plans go up to {SIZES[-1]}")
    return plan_report.report(cfg, args.topology, mfu, args.tokens)


def check_file(path: Path) -> None:
    """Refuse, before minutes of compiling, a file that could not be written after."""
    if not path.name or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--json {path}: not a file that can be written; name one in a folder there"
        )


def training(cfg) -> config.Config:
    if not isinstance(cfg, config.Config):
        raise UserError("--config: not a training run's; add --job eval, or take another config")
    return cfg


def planned_sampler(cfg, args: argparse.Namespace) -> dict:
    if not hasattr(cfg, "model"):
        raise UserError(f"--config: {type(cfg).__name__} names no model")
    if args.tokens is not None or args.mfu is not None:
        raise UserError("--tokens and --mfu are for --job train")
    batch = BATCH if args.batch is None else args.batch
    length = LENGTH if args.length is None else args.length
    if batch < 1 or not 1 <= length <= SIZES[-1]:
        raise UserError(
            f"--batch {batch} --length {length}: 1 row or more, of 1 to {SIZES[-1]} tokens"
        )
    own = [getattr(getattr(cfg, "bench", None), name, None) for name in ("batch", "length")]
    if None not in own and own != [batch, length]:
        rows, tokens = own
        print(f"(the config's own bench takes --batch {rows} --length {tokens})")
    return plan_report.sampler_report(cfg, args.topology, batch, length)


def about() -> str:
    parts = [__doc__, parser().format_help()]
    for keys in (plan_report.KEYS, plan_report.SAMPLER_KEYS):
        parts.append(f"Keys of the JSON of --job {keys['job']}:")
        parts += [f"  {key:24} {meaning}" for key, meaning in keys.items()]
    return "\n".join(parts)


def parser() -> argparse.ArgumentParser:
    p = Parser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    add = p.add_argument
    add("--topology", help="the machine: v5e:4x8, h200, ...; a wrong one lists them")
    add("--job", choices=("train", "eval"), help="the step (train, the default) or the sampler")
    add("--json", type=Path, metavar="FILE", help="also write it all there")
    add("--mfu", type=float, help=f"share of the peak assumed for times ({MFU})")
    add("--tokens", type=int, metavar="N", help="of an epoch; the data is then not opened")
    add("--batch", type=int, help=f"--job eval: rows ({BATCH})")
    add("--length", type=int, help=f"--job eval: tokens of prompt and answer ({LENGTH})")
    add("--table", type=Path, metavar="DIR", help="models x machines, DIR/table.md")
    return p


if __name__ == "__main__":
    run_main(main)
