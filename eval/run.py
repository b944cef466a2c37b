"""Score a checkpoint on MedS-Bench: python -m eval.run --config medsbench.py --config.model DIR

Writes predictions.jsonl and scores.json to the workdir and prints the scores. The same command
again continues where it was stopped.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax

from medsjax import config, convert
from medsjax.errors import UserError, run_main
from medsjax.sharding import make_mesh


@dataclass(frozen=True, kw_only=True)
class Config:
    """One evaluation of one checkpoint."""

    model: str
    """A Hugging Face folder, a hub name, or a run's hf/ folder."""
    tokenizer: str = ""
    """A folder with a tokenizer, or a tokenizer file; empty: the model's own."""
    bench: Any
    """The benchmark: called with (model, tokenizer, step, out_dir), gives {name: number}."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the weights and the computation."""
    mesh: tuple[int, int] = (0, 0)
    """Sizes of the (fsdp, tensor) axes; 0 0: as many devices on tensor as divide the kv heads."""
    workdir: str = ""
    """Where the files go; empty: runs/NAME of the config file."""


def run(cfg: Config) -> dict[str, float]:
    """The benchmark's numbers, also written to the workdir."""
    if jax.process_count() > 1:
        raise UserError(f"eval.run: {jax.process_count()} processes; generation runs in one")
    if cfg.dtype == "float32":  # else TPUs and newer GPUs multiply float32 in fewer bits
        jax.config.update("jax_default_matmul_precision", "highest")
    if hasattr(cfg.bench, "check"):
        cfg.bench.check()  # now, not after gigabytes of weights
    folder = convert.resolve(cfg.model)
    mesh = make_mesh(*cfg.mesh) if any(cfg.mesh) else None
    model, tokenizer = convert.load_to_sample(folder, cfg.dtype, cfg.tokenizer, mesh)
    return cfg.bench(model, tokenizer, 0, cfg.workdir)


def main() -> None:
    cfg = config.load(prog="python -m eval.run", about=__doc__, expect=Config)
    run(cfg)
    print(f"{cfg.workdir}: scores.json, predictions.jsonl")


if __name__ == "__main__":
    from eval import run as module  # whose Config, not __main__'s, is the one that configs return

    run_main(module.main)
