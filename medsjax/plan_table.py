"""The table of models and machines in tpu_scripts/README.md: one plan each, kept as JSON.

python -m medsjax.plan --config medsins.py --table DIR
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax

from medsjax import config, plan_report
from medsjax.errors import UserError
from medsjax.workdir import write_json

MACHINES = ("v4:2x2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5p:2x2x1", "v6e:2x4", "h200")
BATCH, LENGTH = 128, 2048  # of the sampler
MFU = 0.4
TRAINING = (
    "model",
    "machine",
    "settings",
    "peak GiB a chip",
    "of",
    "s a step at least: compute",
    "memory",
    "links",
    "tokens/s at 40 % MFU",
    "chip-hours a billion tokens",
)
SAMPLING = (
    "model",
    "machine",
    "weights GiB a chip",
    "cache of 128 x 2048",
    "temporaries: prefill",
    "decode",
    "tokens/s at most",
    "rows of 2048 that fit",
)


def write(cfg: config.Config, folder: Path) -> Path:
    """Both tables as Markdown, in a file. Plans of these settings in `folder` are not made again.

    A machine whose compiler is not installed is left out, so that two environments can share the
    folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    training, sampling = [], []
    for model in plan_report.SHAPES:
        for machine in MACHINES:
            named = replace(cfg, model=model)
            train = _kept(folder, "train", named, machine)
            sampler = _kept(folder, "eval", named, machine)
            training += [train_row(train)] if train else []
            sampling += [sampler_row(sampler)] if sampler else []
    if not training:
        raise UserError("--table: no plan could be made, for the reasons above")
    path = folder / "table.md"
    path.write_text(f"{_markdown(TRAINING, training)}\n\n{_markdown(SAMPLING, sampling)}\n")
    return path


def _kept(folder: Path, job: str, cfg: config.Config, machine: str) -> dict | None:
    settings = hashlib.sha256(json.dumps(config.to_dict(cfg)).encode()).hexdigest()[:8]
    path = folder / f"{job}_{cfg.model}_{machine.replace(':', '_')}_{settings}.json"
    if not path.is_file():
        print(f"{path.name}: compiling", file=sys.stderr, flush=True)
        try:
            if job == "train":
                found = plan_report.report(cfg, machine, MFU, None)
            else:
                found = plan_report.sampler_report(cfg, machine, BATCH, LENGTH)
        except UserError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return None
        write_json(path, found)
        jax.clear_caches()  # else the programs of all plans stay in memory
    try:
        found = json.loads(path.read_text())
        if found["job"] == job:
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: not a plan; delete it, and it is made anew")


def train_row(r: dict) -> tuple:
    """Of the settings that were asked for, or else of the nearest that fit."""
    place = (r["model"], r["topology"])
    best = r if r["fits"] else r["nearest"]
    if best is None:
        return (*place, "none fits", "", r["hbm_gib"], "", "", "", "", "")
    flags = "" if best is r else f"`{best['flags']}`"
    bounds = (f"{best['bounds_s'][name]:.2f}" for name in ("compute", "memory", "links"))
    chips = best["settings"]["mesh"][0] * best["settings"]["mesh"][1]
    hours = 1e9 / best["tokens_per_s"] / 3600 * chips
    speed = f"{best['tokens_per_s']:,}", f"{hours:,.0f}"
    return (*place, flags, best["peak_gib"], r["hbm_gib"], *bounds, *speed)


def sampler_row(r: dict) -> tuple:
    held = r["weights_gib"], r["cache_gib"]
    more = r["prefill_temporaries_gib"], r["decode_temporaries_gib"]
    if r["peak_gib"] is None:
        more = "does not compile", ""
    largest = "none" if r["largest_batch"] is None else r["largest_batch"]
    return (r["model"], r["topology"], *held, *more, f"{r['decode_tokens_per_s']:,}", largest)


def _markdown(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
