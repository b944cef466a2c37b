"""The parts of a run's config, each a frozen dataclass whose values are checked when it is made."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from medsjax.errors import UserError


def check(part: Any, keys: str, ok: Callable[[Any], bool], rule: str) -> None:
    """Refuse a value that breaks its rule. keys: dotted names, as in "run.keep run.workers"."""
    for key in keys.split():
        value = getattr(part, key.rpartition(".")[2])
        if not ok(value):
            raise UserError(f"config.{key}={value!r}: must be {rule}")


def whole(least: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _mesh(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and all(map(whole(0), x))


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW under a linear warm-up and a cosine decay. The paper states only the learning rate."""

    lr: float = 1e-5
    """Peak learning rate."""
    warmup: float = 0.03
    """Share of all steps in which the learning rate rises linearly from 0."""
    final: float = 0.1
    """Share of lr at which the cosine ends."""
    b1: float = 0.9
    """AdamW's decay of the first moment."""
    b2: float = 0.999
    """AdamW's decay of the second moment."""
    eps: float = 1e-8
    """AdamW's epsilon, outside the square root."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 1.0
    """Largest global norm of the gradients; above it they are scaled down."""
    m_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which AdamW's first moment is kept; bfloat16 saves two bytes a parameter."""
    v_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which AdamW's second moment is kept. bfloat16 stalls with b2 = 0.999: a step's change of
    1/1000 is less than its rounding of 1/256, so v stays where it is; take b2 = 0.95 with it."""

    def __post_init__(self) -> None:
        rule = "a number above 0"
        check(self, "optim.lr optim.eps optim.clip", lambda x: number(x) and x > 0, rule)
        rule = "a number in 0 to 1"
        check(self, "optim.warmup optim.final", lambda x: number(x) and 0 <= x <= 1, rule)
        rule = "a number in 0 to 1, below 1"
        check(self, "optim.b1 optim.b2", lambda x: number(x) and 0 <= x < 1, rule)
        rule = "a number, 0 or more"
        check(self, "optim.weight_decay", lambda x: number(x) and x >= 0, rule)
        dtypes = ("float32", "bfloat16")
        check(self, "optim.m_dtype optim.v_dtype", lambda x: x in dtypes, f"one of {dtypes}")


TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Train a product of low rank beside each chosen weight; the base stays as it is."""

    rank: int = 0
    """Of the products; 0: no LoRA, all weights are trained."""
    alpha: float = 16.0
    """The products are scaled by alpha / rank."""
    targets: tuple[str, ...] = TARGETS
    """Which weights, by PEFT's names."""

    def __post_init__(self) -> None:
        check(self, "lora.rank", whole(0), "a whole number, 0 or more")
        check(self, "lora.alpha", lambda x: number(x) and x > 0, "a number above 0")

        def known(x):
            return isinstance(x, tuple) and x and len({*x} & {*TARGETS}) == len(x)

        check(self, "lora.targets", known, f"some of {' '.join(TARGETS)}, each once")


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run is operated. All of it may change when the run is resumed."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """How many checkpoints stay on disk."""
    eval_every: int = 0
    """Steps between measurements of the held-out loss; 0: only at the start and the end."""
    bench_at: Literal["none", "start", "end", "both"] = "both"
    """When the benchmark is run."""
    mesh: tuple[int, int] = (0, 0)
    """Sizes of the (fsdp, tensor) axes; 0 takes what is left: all devices on fsdp."""
    remat: Literal["full", "qkv_context", "none"] = "full"
    """What of a layer the backward pass computes again: all (full: least memory, 1/3 more work),
    all but attention and its inputs (qkv_context; on a GPU but its inputs), or nothing (none)."""
    accumulate: int = 1
    """Parts into which a step's batch is cut to save memory; the gradient stays the same."""
    workers: int = 0
    """Grain worker processes that make batches; 0: threads."""
    force_resume: bool = False
    """Resume although a setting that is part of the run's identity has changed."""

    def __post_init__(self) -> None:
        keys = "run.log_every run.save_every run.keep run.accumulate"
        check(self, keys, whole(1), "a whole number above 0")
        check(self, "run.eval_every run.workers", whole(0), "a whole number, 0 or more")
        check(self, "run.mesh", _mesh, "two whole numbers, 0 or more")
        moments = ("none", "start", "end", "both")
        check(self, "run.bench_at", lambda x: x in moments, f"one of {moments}")
        choices = ("full", "qkv_context", "none")
        check(self, "run.remat", lambda x: x in choices, f"one of {choices}")
