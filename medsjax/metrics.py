"""metrics.jsonl: one object a logged step, each step once, also after a resume."""

import json
import math
import os
import time
from pathlib import Path

import jax
from tqdm import tqdm

from medsjax.errors import UserError
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


def train_flops(dims: Dims, length: int, frozen: bool = False) -> float:
    """FLOPs to train a token in a row of `length`: 6 a weight, and causal attention's products.

    `frozen`: 4 a weight, whose own gradient is not made.
    """
    D, F, N, K, H = dims.D, dims.F, dims.N, dims.K, dims.H
    per_layer = D * H * (2 * N + 2 * K) + 3 * D * F
    return (4 if frozen else 6) * (dims.L * per_layer + dims.V * D) + 6 * dims.L * N * H * length


def mfu(tokens_per_second: float, flops_per_token: float) -> float | None:
    """Share of the devices' bf16 peak; None where the peak is not known (a CPU)."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return peak and tokens_per_second * flops_per_token / (peak * jax.device_count())


class Log:
    """metrics.jsonl and the progress bar of a run that starts after step `start`, on process 0.

    Rates count useful tokens (no padding) and leave out compiling, held-out passes and saves.
    """

    def __init__(self, path: Path, start, steps, every, *, rate, rows_per_epoch, flops):
        first = jax.process_index() == 0
        self.file = MetricsFile(path, start) if first else None
        self.every, self.rate = every, rate
        self.rows_per_epoch, self.flops = rows_per_epoch, flops
        look = {"desc": "training", "unit": "step", "smoothing": 0.1, "disable": not first}
        self.bar = tqdm(total=steps, initial=start, **look)
        self.pending: list[dict] = []
        self.clock: float | None = None  # None until the first step has compiled

    def step(self, step: int, seen: dict, n_examples: int, force: bool = False) -> dict | None:
        """Count a step; at a logged step, wait for it and give the row to write."""
        self.pending.append({**seen, "examples": n_examples})
        self.bar.update()
        logged = force or step % self.every == 0
        if self.clock is None or logged:
            loss = float(seen["loss"])
            norm = float(seen["grad_norm"])
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"step {step}: the loss is {loss}, the gradient's norm {norm}; lower optim.lr "
                    "and start from an earlier checkpoint or another workdir"
                )
        row = self._row(step, seen) if logged else None
        if self.clock is None:
            self.restart_clock()
        return row

    def _row(self, step: int, seen: dict) -> dict:
        sums = {k: int(sum(int(p[k]) for p in self.pending)) for k in ("tokens", "examples")}
        steps = len(self.pending)
        seconds = None if self.clock is None else time.perf_counter() - self.clock
        speed = seconds and sums["tokens"] / seconds
        self.bar.set_postfix_str(f"loss {float(seen['loss']):.3f}, {speed or 0:,.0f} tokens/s")
        self.restart_clock()
        return {
            "step": step,
            "epoch": round(step / self.rows_per_epoch, 4),
            "loss": float(seen["loss"]),
            "learning_rate": float(self.rate(step - 1)),
            "grad_norm": float(seen["grad_norm"]),
            "tokens_per_second": speed and round(speed, 1),
            "mfu": speed and mfu(speed, self.flops),
            "tokens_per_step": sums["tokens"] / steps,
            "targets": int(seen["targets"]),
            "examples_per_step": sums["examples"] / steps,
        }

    def restart_clock(self) -> None:
        """Begin a new interval, after work that is not training."""
        self.clock, self.pending = time.perf_counter(), []

    def write(self, row: dict | None) -> None:
        """What `step` gave: a row, or None where none is due."""
        if self.file and row:
            self.file.write(row)

    def complete(self, heldout_loss: float) -> None:
        """Fill in what a pass that SIGTERM cut off owes the last row."""
        if self.file:
            self.file.complete(heldout_loss)

    def close(self) -> None:
        self.bar.close()


class MetricsFile:
    """Appends objects by step; opening it at `step` drops what a killed run wrote after it.

    `cut_off`: the last row waits for its held-out loss, which is null.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [row for row in read(path) if row["step"] <= step]
        self._replace(kept)
        self.last = kept[-1]["step"] if kept else -1
        self.cut_off = bool(kept) and kept[-1].get("heldout_loss", 0) is None

    def _replace(self, rows: list[dict]) -> None:
        temp = self.path.with_suffix(".tmp")
        temp.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temp, self.path)

    def complete(self, heldout_loss: float) -> None:
        rows = read(self.path)
        self._replace([*rows[:-1], {**rows[-1], "heldout_loss": heldout_loss}])

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
