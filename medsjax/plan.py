"""Does a run fit a machine that is not here, and how long does it take? Known before it is paid.

    python -m medsjax.plan --config NAME_OR_PATH --topology v5e:4x8 [--json FILE]

Compiles the very step that `train` runs with that config. It needs neither weights nor data nor the
machine, but its compiler: pip install -e '.[tpu-plan]' for TPUs, '.[gpu-plan]' for an H200. Exit
code 0: it fits; 1: it does not, and the nearest settings that do were looked for.
"""

import os

if __name__ == "__main__":  # read when jax and the compilers start, so before they are imported
    os.environ["JAX_PLATFORMS"] = "cpu"  # not a device that something else may be using
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.update(TPU_ACCELERATOR_TYPE="v5litepod-4", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from medsjax import bounds, config, fitting, input_pipeline, topologies
from medsjax.errors import UserError, run_main
from medsjax.fitting import GIB, Fit
from medsjax.tokenizer import Tokenizer
from medsjax.train import Plan
from medsjax.workdir import write_json

# Llama 3's shapes, for when a checkpoint is not here: what their config.json say.
_LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
}
_SIDES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHAPES = {
    "llama-3-8b": dict(zip(_SIDES, (4096, 14336, 32, 32), strict=True)),
    "llama-3.2-1b": dict(zip(_SIDES, (2048, 8192, 16, 32), strict=True), tie_word_embeddings=True),
    "llama-3.2-3b": dict(zip(_SIDES, (3072, 8192, 28, 24), strict=True), tie_word_embeddings=True),
}

KEYS = {
    "job": "train",
    "model": "the config's model",
    "shape": "where its shape comes from: config.json, or the name of a built-in one",
    "topology": "the machine",
    "chips": "in it",
    "hbm_gib": "memory of a chip that a program may use",
    "compiler": "versions of jax and the machine's compiler",
    "settings": "mesh (fsdp, tensor), batch, length, accumulate, remat, dtype, m_dtype, v_dtype",
    "fits": "true or false",
    "why_not": "empty, or why it does not fit",
    "params_gib": "parameters, float32, a chip",
    "optimizer_gib": "optimizer state a chip",
    "temporaries_gib": "all else that is alive at the peak a chip: gradients, activations, batch",
    "peak_gib": "most memory in use at a time a chip; null where it does not compile",
    "tokens_per_step": "places for tokens in a step (rows are packed more than 99 % full)",
    "examples_per_step": "null where the data was not opened",
    "flops_per_step": "6 a weight and token, and causal attention's products",
    "flops_per_step_run": "the same with what remat computes again",
    "bounds_s": "seconds of a step at least: compute at the peak of all chips, memory (state, "
    "gradients and weights moved once), links (what the collectives send; null without a program)",
    "mfu": "flops_per_step a second over the chips' peak: the assumption of what follows",
    "step_s": "seconds of a step at that mfu, or the largest bound if that is longer",
    "tokens_per_s": "of all chips",
    "steps": "of the whole run; null where the data was not opened and --tokens not given",
    "days": "of the whole run, without evaluation and saving; null as above",
    "chip_hours": "the same in hours times chips; null as above",
    "data": "what steps was counted from, or why it is not known",
    "collectives": "list of {kind, count, gb}: times a step, and 1e9 bytes that a chip sends in it",
    "tried": "list of {topology, settings, fits, peak_gib, why_not}: other settings compiled",
    "nearest": "the first of them that fits; null where none does or none was looked for",
    "seconds": "that planning took",
}


def config_folder(model: str, scratch: Path) -> tuple[Path, str]:
    """(a folder with the config.json of a model, where that is from): nothing is fetched."""
    if Path(model).is_dir():
        return Path(model), "config.json"
    if len(Path(model).parts) == 2 and not model.startswith((".", "/")):
        from huggingface_hub import try_to_load_from_cache

        if isinstance(cached := try_to_load_from_cache(model, "config.json"), str):
            return Path(cached).parent, "config.json"
    name = next((n for n in SHAPES if n in model.rpartition("/")[2].lower()), None)
    if name is None:
        raise UserError(
            f"--config.model={model}: no such folder, its config.json is not in the hub's cache, "
            f"and its name has none of {', '.join(SHAPES)} in it; name a folder, one of these, or "
            "fetch it: hf download OWNER/MODEL config.json"
        )
    (scratch / "config.json").write_text(json.dumps(_LLAMA3 | SHAPES[name]))
    return scratch, name


def extent(cfg: config.Config, folder: Path, shape: str, tokens: int | None) -> dict:
    """`steps`, `examples_per_step` and `data` of the whole run, as far as they can be known."""
    if tokens is not None:
        steps = input_pipeline.n_steps(-(-tokens // cfg.length), cfg.batch, cfg.epochs)
        data = f"{tokens:,} tokens an epoch, as --tokens says"
        return {"steps": steps, "examples_per_step": None, "data": data}
    if shape in SHAPES and not cfg.tokenizer:
        unknown = f"unknown: {cfg.model} is not here, nor its tokenizer; --tokens N says how many"
        return {"steps": None, "examples_per_step": None, "data": unknown}
    try:
        tokenizer = Tokenizer.load(cfg.tokenizer or folder, folder)
        plan = Plan.of(cfg.data, tokenizer, cfg, "data")
    except (UserError, OSError) as error:
        return {"steps": None, "examples_per_step": None, "data": f"unknown: {error}"}
    return {
        "steps": input_pipeline.n_steps(len(plan.rows), cfg.batch, cfg.epochs),
        "examples_per_step": round(len(plan.lengths) / len(plan.rows) * cfg.batch, 1),
        "data": plan.describe(),
    }


def report(cfg: config.Config, topology: str, mfu: float, tokens: int | None) -> dict:
    """Everything in KEYS; prints the settings that it tries where `cfg` does not fit."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder, shape = config_folder(cfg.model, Path(scratch))
        counted = extent(cfg, folder, shape, tokens)
        asked, tried = fitting.fit(cfg, folder, topology), []

        def tell(f: Fit) -> None:
            tried.append(f)
            print(f"tried {flags(f, asked)}: {'fits' if f.fits else f.why}", flush=True)

        if not asked.fits:
            print(f"{topology}: does not fit: {asked.why}; looking for settings that do")
        best = None if asked.fits else fitting.nearest(cfg, folder, topology, tell)
    head = {
        "job": "train",
        "model": cfg.model,
        "shape": shape,
        "topology": topology,
        "chips": asked.chips,
        "hbm_gib": topologies.chip(topology).hbm_gib,
        "compiler": topologies.compiler(topology),
        "settings": settings(asked),
        **memory(asked),
    }
    tail = {
        "collectives": [
            {"kind": c.kind, "count": c.count, "gb": round(c.sent / 1e9, 3)}
            for c in asked.collectives
        ],
        "tried": [attempt(f, asked) for f in tried],
        "nearest": best and attempt(best, asked),
        "seconds": round(time.perf_counter() - start, 1),
    }
    found = head | counted | bounds.speed(asked, mfu, counted["steps"]) | tail
    return {key: found[key] for key in KEYS}


def settings(f: Fit) -> dict:
    """Of a setting what decides over its memory."""
    cfg = f.cfg
    return {
        "mesh": list(f.mesh.values()),
        **{"batch": cfg.batch, "length": cfg.length, "accumulate": cfg.run.accumulate},
        **{"remat": cfg.run.remat, "dtype": cfg.dtype},
        **{"m_dtype": cfg.optim.m_dtype, "v_dtype": cfg.optim.v_dtype},
    }


def memory(f: Fit) -> dict:
    """Fits or not, and GiB a chip by part."""
    rest = None if f.peak is None else gib(f.peak - f.params - f.optimizer)
    return {
        "fits": f.fits,
        "why_not": f.why,
        "params_gib": gib(f.params),
        "optimizer_gib": gib(f.optimizer),
        "temporaries_gib": rest,
        "peak_gib": None if f.peak is None else gib(f.peak),
    }


def gib(size: int) -> float:
    return round(size / GIB, 2)


def attempt(f: Fit, asked: Fit) -> dict:
    peak = None if f.peak is None else gib(f.peak)
    shown = {"fits": f.fits, "peak_gib": peak, "why_not": f.why}
    return {"topology": f.topology, "flags": flags(f, asked), "settings": settings(f), **shown}


def flags(f: Fit, asked: Fit) -> str:
    """What to add to the command to get from the settings that were asked for to these."""

    def values(of: Fit) -> dict[str, object]:
        return {
            "--topology": of.topology,
            "--config.run.mesh": " ".join(map(str, of.cfg.run.mesh)),
            "--config.run.remat": of.cfg.run.remat,
            "--config.run.accumulate": of.cfg.run.accumulate,
            "--config.optim.m_dtype": of.cfg.optim.m_dtype,
        }

    before = values(asked)
    changed = {k: v for k, v in values(f).items() if v != before[k]}
    return " ".join(f"{k}{' ' if ' ' in str(v) else '='}{v}" for k, v in changed.items())


def show(r: dict) -> None:
    """The report as tables on the terminal."""
    title = f"{r['model']} ({r['shape']}) on {r['topology']}, {r['chips']} x {r['hbm_gib']} GiB"
    verdict = "fits" if r["fits"] else f"does not fit: {r['why_not']}"
    table = Table(title=f"{title}: {verdict}", title_justify="left", show_header=False)
    for name, text in rows(r):
        table.add_row(name, text)
    Console().print(table)
    if r["collectives"]:
        table = Table("collective", "times a step", "GB a chip sends", title_justify="left")
        for c in r["collectives"]:
            table.add_row(c["kind"], f"{c['count']:,}", f"{c['gb']:,.2f}")
        Console().print(table)
    if r["tried"]:
        nearest = r["nearest"]
        print(
            f"nearest that fits: {nearest['flags']}" if nearest else "nothing that fits was found"
        )


def rows(r: dict) -> list[tuple[str, str]]:
    def known(value, form: str) -> str:
        return "unknown" if value is None else form.format(value)

    made = ", ".join(f"{k} {v}" for k, v in r["settings"].items())
    parts = f"parameters {r['params_gib']}, optimizer {r['optimizer_gib']}"
    rest = f"{known(r['temporaries_gib'], '{}')}, peak {known(r['peak_gib'], '{}')}"
    bound = ", ".join(f"{name} {known(s, '{:.3f} s')}" for name, s in r["bounds_s"].items())
    run = f"{known(r['steps'], '{:,}')} steps, {known(r['days'], '{:,.2f}')} days"
    return [
        ("settings", made),
        ("GiB a chip", f"{parts}, temporaries {rest}"),
        (
            "a step",
            f"{r['tokens_per_step']:,} tokens, {known(r['examples_per_step'], '{:,}')} "
            f"examples, {r['flops_per_step']:.3e} FLOPs",
        ),
        ("takes at least", bound),
        (f"at {r['mfu']:.0%} MFU", f"{r['step_s']:.2f} s a step, {r['tokens_per_s']:,} tokens/s"),
        ("the whole run", f"{run}, {known(r['chip_hours'], '{:,}')} chip-hours"),
        ("data", r["data"]),
        ("compiled by", f"{r['compiler']}, in {r['seconds']:.0f} s; not run"),
    ]


def main() -> None:
    args, rest = parser().parse_known_args()
    keys = "\n".join(f"  {key:19} {meaning}" for key, meaning in KEYS.items())
    about = f"{__doc__}\n{parser().format_help()}\nKeys of the JSON:\n{keys}"
    cfg = config.load(rest, prog="python -m medsjax.plan", about=about, expect=config.Config)
    if args.topology is None:
        raise UserError(f"--topology is missing; there are {', '.join(topologies.SLICES)}")
    topologies.chip(args.topology)
    if not 0 < args.mfu <= 1:
        raise UserError(f"--mfu {args.mfu}: a share of the peak, above 0 and at most 1")
    if args.tokens is not None and args.tokens < 1:
        raise UserError(f"--tokens {args.tokens}: the tokens of an epoch, 1 or more")
    if cfg.dtype == "float32":  # as in train
        jax.config.update("jax_default_matmul_precision", "highest")
    found = report(cfg, args.topology, args.mfu, args.tokens)
    show(found)
    if args.json:
        write_json(args.json, found)
    sys.exit(0 if found["fits"] else 1)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # one line, as for every other mistake
        raise UserError(message.removeprefix("argument "))


def parser() -> argparse.ArgumentParser:
    p = Parser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    p.add_argument("--topology", help="the machine: v5e:4x8, h200, ...; a wrong one lists them")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write what is printed there")
    p.add_argument("--mfu", type=float, default=0.4, help="share of the peak for the estimates")
    p.add_argument("--tokens", type=int, metavar="N", help="of an epoch; the data is not opened")
    return p


if __name__ == "__main__":
    run_main(main)
