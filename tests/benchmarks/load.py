"""Loading an HF folder, ours beside transformers' from_pretrained: seconds and peak memory.

    python -m tests.benchmarks load [--stored bfloat16] [--dtype bfloat16] [--cold] [--folder DIR]

Each opens the model and its tokenizer in a fresh process, on the CPU, by turns; who comes first
changes by round. Medians are printed. Where the dtype is the stored one, from_pretrained on a CPU
only maps the files, and reads them when they are first used; so it has a second row with
disable_mmap=True, where the weights are in memory when it returns, as ours are, and a second column
counts until each weight was read once; "ours takes" is the median of that column's ratios, round by
round, and their range.
--cold: the files are dropped from the page cache before each run, as after a boot or a download.
Weights are random, in shards of 2 GB, made once in --folder. Memory is a process's largest peak
(imports, too) less the model's bytes; ours is to stay under 1.5 GB.
"""

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from medsjax import hf_config, safetensors_io, weights
from medsjax.errors import UserError

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "base"
# Seconds before each run: memory that a process has just let go of is faster to get, most of all on
# a virtual machine, whose host takes it back after a moment.
SETTLE = 10
# Llama 3.2's shapes: layers, width, ffn, query heads, head.
SIZES = {
    "1b": (16, 2048, 8192, 32, 64),
    "3b": (28, 3072, 8192, 24, 128),
    "tiny": (2, 256, 512, 4, 64),
}


def make(folder: Path, size: str, stored: str) -> None:
    """A Llama-3.2-shaped HF folder of random weights, with the sample's tokenizer."""
    layers, width, ffn, heads, head = SIZES[size]
    config = json.loads((SAMPLE / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": ffn}
    config |= {"num_attention_heads": heads, "num_key_value_heads": min(heads, 8)}
    config |= {"head_dim": head, "vocab_size": 128256, "tie_word_embeddings": True}
    config["torch_dtype"] = stored
    temp = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    for file in SAMPLE.glob("*token*"):
        shutil.copy(file, temp)
    (temp / "config.json").write_text(json.dumps(config, indent=2))
    shapes = weights.expected(hf_config.read_config(temp)[1])
    block = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02
    block = block.astype(getattr(ml_dtypes, stored, stored))
    bar = tqdm(total=len(shapes), desc=f"writing {folder}", leave=False)

    def fetch(name: str) -> np.ndarray:
        bar.update()
        return np.resize(np.roll(block, bar.n), shapes[name])

    with bar:
        kinds = dict.fromkeys(shapes, stored)
        safetensors_io.write(temp, shapes, kinds, fetch, max_bytes=2 * 10**9)
    os.rename(temp, folder)


def ours(folder: str, dtype: str):
    """What loads, and the memory of its weights."""
    import jax

    from medsjax import convert
    from medsjax.tokenizer import Tokenizer

    Tokenizer.load(folder)  # its imports are not measured, as transformers' are not
    jax.numpy.zeros(1).block_until_ready()

    def load() -> list[np.ndarray]:
        model, _ = convert.load(folder, dtype=dtype)
        return [np.asarray(leaf).view(np.uint8) for leaf in jax.tree.leaves(model)]

    return load


def transformers(folder: str, dtype: str, **settings):
    """The same, by AutoModelForCausalLM."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.llama import modeling_llama  # noqa: F401  (not measured)

    AutoTokenizer.from_pretrained(folder)
    settings["dtype"] = getattr(torch, dtype)

    def load() -> list[np.ndarray]:
        AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, **settings)
        return [p.detach().view(torch.uint8).numpy() for p in model.parameters()]

    return load


SIDES = {
    "ours": ours,
    "from_pretrained": transformers,
    "… disable_mmap=True": partial(transformers, disable_mmap=True),
}


def measure(side: str, folder: str, dtype: str) -> None:
    """In a process of its own: one JSON line of seconds and bytes."""
    load = SIDES[side](folder, dtype)
    gc.collect()
    start = time.perf_counter()
    leaves = load()
    loaded = time.perf_counter() - start
    for leaf in leaves:
        np.bitwise_xor.reduce(leaf.reshape(-1).view(np.uint64))
    used = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = sum(leaf.nbytes for leaf in leaves)
    print(json.dumps({"loaded": loaded, "used": used, "over": peak - size, "size": size}))


def drop(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    os.sync()
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    """Bring them into it, whence a process that takes most of the memory pushes them."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def run(side: str, folder: Path, dtype: str) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks", "load", "--side", side]
    command += ["--folder", str(folder), "--dtype", dtype]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise UserError(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(folder: Path, dtypes: list[str], rounds: int, cold: bool) -> Table:
    state = "files not in the page cache" if cold else "files in the page cache"
    title = f"{folder.name}: medians of {rounds} by turns, {state}"
    shown = Table("dtype", "who", title=title)
    for name in ("s to return", "s to read all", "ours takes", "GB over the model"):
        shown.add_column(name, justify="right", no_wrap=True)
    for dtype in dtypes:
        seen: dict[str, list[dict]] = {side: [] for side in SIDES}
        for first in tqdm(range(rounds), desc=dtype, leave=False):
            for side in (*SIDES, *SIDES)[first % len(SIDES) :][: len(SIDES)]:
                time.sleep(SETTLE)
                (drop if cold else warm)(folder)
                seen[side].append(run(side, folder, dtype))
        for side, rows in seen.items():
            seconds = (f"{median(r[k] for r in rows):.2f}" for k in ("loaded", "used"))
            shares = [a["used"] / b["used"] for a, b in zip(seen["ours"], rows, strict=True)]
            share = f"{median(shares):.2f}x {min(shares):.2f}-{max(shares):.2f}"
            most = max(r["over"] for r in rows) / 1e9
            name = f"{dtype}, {rows[0]['size'] / 1e9:.2f} GB"
            shown.add_row(name, side, *seconds, share if side != "ours" else "", f"{most:.2f}")
        shown.add_section()
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="3b", help="Llama 3.2's (default 3b)")
    kinds = ("bfloat16", "float32")
    parser.add_argument("--stored", choices=kinds, default=kinds[0], help="the made files' dtype")
    parser.add_argument("--dtype", choices=(*kinds, "both"), default=kinds[0], help="loaded in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache")
    parser.add_argument("--folder", help="where the model is, or is made and stays; else made anew")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return measure(args.side, args.folder, args.dtype)
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(args.folder or Path(temp) / f"{args.size}, {args.stored} files")
        if not (folder / "config.json").is_file():
            make(folder, args.size, args.stored)
        dtypes = list(kinds) if args.dtype == "both" else [args.dtype]
        console = Console(width=max(120, Console().width))
        console.print(table(folder, dtypes, args.rounds, args.cold))
    names = " ".join(f"{n} {version(n)}" for n in ("jax", "torch", "transformers", "safetensors"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    console.print(f"{os.cpu_count()} cores {platform.machine()}, {memory:.0f} GB; {names}")
