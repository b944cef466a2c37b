"""metrics.jsonl: one object a logged step, each step once, also after a resume."""

import json
import os
import time
from pathlib import Path

import jax

from medsjax.model import Dims

# bf16 peak FLOP/s of one chip, from the makers' datasheets; mfu is null elsewhere.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def train_flops(dims: Dims, length: int) -> float:
    """FLOPs to train one token in a row of `length`: 6 a weight, and causal attention's products."""
    D, F, N, K, H = dims.D, dims.F, dims.N, dims.K, dims.H
    per_layer = D * H * (2 * N + 2 * K) + 3 * D * F
    return 6 * (dims.L * per_layer + dims.V * D) + 6 * dims.L * N * H * length


def mfu(tokens_per_second: float, dims: Dims, length: int) -> float | None:
    """Share of the devices' bf16 peak; None where the peak is not known (a CPU)."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    if peak is None:
        return None
    return tokens_per_second * train_flops(dims, length) / (peak * jax.device_count())


class MetricsFile:
    """Appends objects by step; opening it at `step` drops what a killed run wrote after it."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [row for row in read(path) if row["step"] <= step]
        temp = path.with_suffix(".tmp")
        temp.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temp, path)
        self.last = kept[-1]["step"] if kept else -1

    def write(self, row: dict) -> None:
        """Append one object; a step that stands there already is left as it is."""
        if row["step"] <= self.last:
            return
        with open(self.path, "a") as file:
            file.write(json.dumps({**row, "time": round(time.time(), 3)}) + "\n")
        self.last = row["step"]


def read(path: Path) -> list[dict]:
    """The whole lines of a metrics file; a half-written last line is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
