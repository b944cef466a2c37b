"""What a plan tells, as JSON: the documented keys and where each value is from."""

import json
import tempfile
import time
from pathlib import Path

from medsjax import bounds, config, fitting, fitting_sampler, hub, input_pipeline, topologies
from medsjax.collectives import Collective
from medsjax.errors import UserError
from medsjax.fitting import GIB, Fit
from medsjax.fitting_sampler import Need
from medsjax.tokenizer import Tokenizer
from medsjax.train import Plan

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
    "settings": "mesh (fsdp, tensor), batch, length, accumulate, remat, dtype, m_dtype, "
    "v_dtype, lora_rank",
    "fits": "true or false",
    "why_not": "empty, or why it does not fit",
    "params_gib": "parameters a chip",
    "trained_gib": "of these what is trained, in float32: all, or adapters beside a frozen base",
    "optimizer_gib": "optimizer state a chip",
    "temporaries_gib": "all else that is alive at the peak a chip: gradients, activations, batch",
    "peak_gib": "most memory in use at a time a chip; null where it does not compile",
    "checkpoint_gb": "1e9 bytes of one: room on the disk is needed for run.keep + 1",
    "tokens_per_step": "places for tokens in a step (rows are packed more than 99 % full)",
    "examples_per_step": "null where the data was not opened",
    "flops_per_step": "6 a weight and token (4 a frozen one; adapters' own are left out), and "
    "causal attention's products",
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
    "tried": "list of {topology, flags, settings, fits, peak_gib, why_not, bounds_s, step_s, "
    "tokens_per_s}: other settings compiled, and the flags that choose them",
    "nearest": "of those that fit the one that changes least; null where there is none",
    "seconds": "that planning took",
}

_SAME = ("model", "shape", "topology", "chips", "hbm_gib", "compiler")
SAMPLER_KEYS = {
    "job": "eval",
    **{key: KEYS[key] for key in _SAME},
    "settings": "mesh (fsdp, tensor), batch (rows), length (prompt and answer), dtype",
    "fits": "true or false",
    "why_not": "empty, or why it does not fit",
    "weights_gib": "a chip",
    "cache_gib": "of keys and values for batch x length, a chip",
    "prefill_temporaries_gib": "beside both, while prompts that fill the cache are read, a chip; "
    "null without a program, as the next three",
    "decode_temporaries_gib": "beside both, while tokens are made, a chip",
    "grow_temporaries_gib": "beside both, while the cache grows: answers longer than 128 need it",
    "decode_share": "decode_temporaries_gib over cache_gib",
    "peak_gib": "weights, cache and the largest of the temporaries, a chip; null without a program",
    "decode_bounds_s": "seconds of one token a row over a full cache at least: compute, memory "
    "(weights and cache read once), links (null without a program)",
    "decode_tokens_per_s": "at most, of all rows",
    "prefill_tokens_per_s": "at most, by compute",
    "collectives": "list of {kind, count, gb} for one token a row",
    "largest_batch": "rows of this length that fit (found to 1/16); null where not even the least",
    "largest_peak_gib": "its peak a chip",
    "seconds": "that planning took",
}


def config_folder(model: str, scratch: Path) -> tuple[Path, str]:
    """(a folder with the config.json of a model, where that is from): nothing is fetched."""
    if Path(model).is_dir():
        return hub.resolve(model), "config.json"
    here = model.startswith((".", "/")) or len(Path(model).parts) > 2
    if len(Path(model).parts) == 2 and not here:
        from huggingface_hub import try_to_load_from_cache

        if isinstance(cached := try_to_load_from_cache(model, "config.json"), str):
            return Path(cached).parent, "config.json"
    name = next((n for n in SHAPES if n in model.rpartition("/")[2].lower() and not here), None)
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
        fitting.machine(cfg, folder, topology)  # before minutes of laying out data
        counted = extent(cfg, folder, shape, tokens)
        asked, tried = fitting.fit(cfg, folder, topology), []

        def tell(f: Fit) -> None:
            tried.append(f)
            verdict = f"fits, {gib(f.peak)} GiB" if f.fits else f.why
            print(f"tried {flags(f, asked)}: {verdict}", flush=True)

        if not asked.fits:
            print(f"{topology}: does not fit: {asked.why}; looking for settings that do")
        best = None if asked.fits else fitting.nearest(cfg, folder, topology, tell)
    head = {
        **place("train", cfg.model, shape, asked),
        "settings": settings(asked),
        **memory(asked),
    }
    tail = {
        "collectives": sent(asked.collectives),
        "tried": [attempt(f, asked, mfu) for f in tried],
        "nearest": best and attempt(best, asked, mfu),
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
        "lora_rank": cfg.lora.rank,
    }


def memory(f: Fit) -> dict:
    """Fits or not, and GiB a chip by part."""
    rest = None if f.peak is None else f.peak - f.params - f.optimizer
    return {
        "fits": f.fits,
        "why_not": f.why,
        "params_gib": gib(f.params),
        "trained_gib": gib(f.trained),
        "optimizer_gib": gib(f.optimizer),
        "temporaries_gib": gib(rest),
        "peak_gib": gib(f.peak),
        "checkpoint_gb": round(f.checkpoint / 1e9, 2),
    }


def gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 2)


def attempt(f: Fit, asked: Fit, mfu: float) -> dict:
    """Another setting: how to choose it, whether it fits, what it costs."""
    shown = {
        "topology": f.topology,
        "flags": flags(f, asked),
        "settings": settings(f),
        "fits": f.fits,
        "peak_gib": gib(f.peak),
        "why_not": f.why,
    }
    speed = bounds.speed(f, mfu, None)
    return shown | {key: speed[key] for key in ("bounds_s", "step_s", "tokens_per_s")}


def sent(collectives: tuple[Collective, ...]) -> list[dict]:
    return [{"kind": c.kind, "count": c.count, "gb": round(c.sent / 1e9, 3)} for c in collectives]


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


def sampler_report(cfg, topology: str, batch: int, length: int) -> dict:
    """Everything in SAMPLER_KEYS, of a config with `model` and `dtype`; prints what it compiles."""
    start = time.perf_counter()
    mesh = getattr(cfg, "mesh", (0, 0))  # a training run's bench takes the sampler's own
    dtype = getattr(cfg, "dtype", "bfloat16")

    def measure(rows: int) -> Need:
        n = fitting_sampler.need(folder, topology, mesh, dtype, rows, length)
        verdict = f"fits, {gib(n.peak)} GiB" if n.fits else f"does not fit: {n.why}"
        print(f"{topology}, {rows} rows of {length}: {verdict}", flush=True)
        return n

    with tempfile.TemporaryDirectory() as scratch:
        folder, shape = config_folder(cfg.model, Path(scratch))
        asked = measure(batch)
        largest = fitting_sampler.largest(measure, asked)
    made = {"mesh": list(asked.mesh.values()), "batch": batch, "length": length, "dtype": dtype}
    found = {
        **place("eval", cfg.model, shape, asked),
        "settings": made,
        "fits": asked.fits,
        "why_not": asked.why,
        "weights_gib": gib(asked.weights),
        "cache_gib": gib(asked.cache),
        "prefill_temporaries_gib": gib(asked.prefill),
        "decode_temporaries_gib": gib(asked.decode),
        "grow_temporaries_gib": gib(asked.grow),
        "decode_share": None if asked.decode is None else round(asked.decode / asked.cache, 4),
        "peak_gib": gib(asked.peak),
        **bounds.sampling(asked),
        "collectives": sent(asked.collectives),
        "largest_batch": largest and largest.batch,
        "largest_peak_gib": largest and gib(largest.peak),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return {key: found[key] for key in SAMPLER_KEYS}


def place(job: str, model: str, shape: str, of: Fit | Need) -> dict:
    """What is planned, and for which machine."""
    return {
        **{"job": job, "model": model, "shape": shape},
        **{"topology": of.topology, "chips": of.chips},
        "hbm_gib": topologies.chip(of.topology).hbm_gib,
        "compiler": topologies.compiler(of.topology),
    }
