"""What a machine cannot beat: the least time of a training step, and of prefill and decoding.

Every multiplication at the chips' peak, every byte that must move at the full width of its path.
"""

import math

import jax.numpy as jnp

from medsjax import metrics, topologies
from medsjax.fitting import Fit
from medsjax.fitting_sampler import Need
from medsjax.model import Dims
from medsjax.weights import expected


def parameters(dims: Dims) -> int:
    """How many a checkpoint has."""
    return sum(math.prod(shape) for shape in expected(dims).values())


def flops_again(dims: Dims, length: int, remat: str, gpu: bool) -> float:
    """FLOPs a token of what the backward pass computes again: what a layer did not keep."""
    qkv = 2 * dims.D * dims.H * (dims.N + 2 * dims.K)
    context = 2 * dims.N * dims.H * length
    output_gate_up = 2 * dims.D * dims.N * dims.H + 2 * 2 * dims.D * dims.F
    everything = qkv + context + output_gate_up
    kept = {"full": 0, "qkv_context": qkv + (0 if gpu else context), "none": everything}[remat]
    return dims.L * (everything - kept)


def speed(f: Fit, mfu: float, steps: int | None) -> dict:
    """Work, lower bounds and times; what the machine does at `mfu`, never below a bound."""
    chip, cfg, dims = topologies.chip(f.topology), f.cfg, f.dims
    peak, tokens = metrics.PEAK_FLOPS[f.device_kind] * f.chips, cfg.batch * cfg.length
    flops = tokens * metrics.train_flops(dims, cfg.length, frozen=cfg.lora.rank > 0)
    run = flops + tokens * flops_again(dims, cfg.length, cfg.run.remat, "NVIDIA" in f.device_kind)
    passes = cfg.run.accumulate * (2 if cfg.run.remat == "none" else 3)
    vocabulary = dims.V * dims.D  # the embedding is looked up; of the output each chip has a part
    layers = parameters(dims) - vocabulary * (1 if dims.tied else 2)
    read = layers * passes / f.mesh["tensor"] + vocabulary * cfg.run.accumulate / f.chips
    weights = read * jnp.dtype(cfg.dtype).itemsize
    moved = 2 * (f.trained + f.optimizer) + 2 * f.trained + weights
    bounds = {
        "compute": run / peak,
        "memory": moved / (chip.hbm_gbps * 1e9),
        "links": f.peak and sum(c.sent for c in f.collectives) / (chip.link_gbps * 1e9),
    }
    step = max(flops / (peak * mfu), *(s or 0 for s in bounds.values()))
    days = steps and steps * step / 86400
    return {
        "tokens_per_step": tokens,
        "flops_per_step": flops,
        "flops_per_step_run": run,
        "bounds_s": {name: s and round(s, 4) for name, s in bounds.items()},
        "mfu": mfu,
        "step_s": round(step, 4),
        "tokens_per_s": round(tokens / step),
        "days": days and round(days, 2),
        "chip_hours": days and round(days * 24 * f.chips),
    }


def sampling(n: Need) -> dict:
    """Lower bounds of decoding a token for all rows over a full cache, and rates at most."""
    chip, dims = topologies.chip(n.topology), n.dims
    peak = metrics.PEAK_FLOPS[n.device_kind] * n.chips
    weights = 2 * (parameters(dims) - (0 if dims.tied else dims.V * dims.D))
    attention = 4 * dims.L * dims.N * dims.H * n.length
    embedding = 0 if dims.tied else n.weights * dims.V * dims.D / parameters(dims)  # looked up
    bounds = {
        "compute": n.batch * (weights + attention) / peak,
        "memory": (n.weights - embedding + n.cache) / (chip.hbm_gbps * 1e9),
        "links": n.peak and sum(c.sent for c in n.collectives) / (chip.link_gbps * 1e9),
    }
    return {
        "decode_bounds_s": {name: s and round(s, 6) for name, s in bounds.items()},
        "decode_tokens_per_s": round(n.batch / max(s or 0 for s in bounds.values())),
        "prefill_tokens_per_s": round(peak / (weights - 2 * dims.V * dims.D + attention / 2)),
    }
