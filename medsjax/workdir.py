"""A run's folder: who may write into it, what run it belongs to, whether it is finished."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from medsjax import config, metrics, safetensors_io
from medsjax.errors import OnAll, UserError
from medsjax.hosts import Hosts
from medsjax.tokenizer import Tokenizer

FINISHED = "finished.json"  # written last, with the steps of what lies beside it
SEEN_WITHIN = 30  # seconds until what host 0 writes is seen by the others


def identity(
    cfg: config.Config, us: Hosts, folder: Path, tokenizer: Tokenizer, source
) -> dict[str, Any]:
    """What makes two runs the same: contents, not paths, and the settings that change numbers."""
    adapters = dataclasses.asdict(cfg.lora) | {"targets": list(cfg.lora.targets)}
    return {
        "model": weights_sha256(folder, us),
        "tokenizer": tokenizer.fingerprint,
        "data": source.fingerprint,
        **{k: getattr(cfg, k) for k in ("length", "batch", "epochs", "seed", "dtype")},
        **{f"optim.{k}": v for k, v in dataclasses.asdict(cfg.optim).items()},
        **({f"lora.{k}": v for k, v in adapters.items()} if cfg.lora.rank else {}),
    }


def weights_sha256(folder: Path, us: Hosts | None = None) -> str:
    """sha256 over an HF folder's config.json and the sha256 of each of its weight files.

    Several hosts share the files out, so that each is read once; that all of them see the same
    ones follows from what `glance` reads of each.
    """
    us = us or Hosts()
    files = sorted({entry.file for entry in safetensors_io.entries(folder).values()})
    us.agree("model", {"model": hashlib.sha256(b"".join(map(glance, files))).hexdigest()})
    mine = files[us.index :: us.count]
    size, digests = sum(f.stat().st_size for f in mine), {}
    look = {"unit": "B", "unit_scale": True, "leave": False, "disable": size < 1e9}
    with tqdm(total=size, desc="hashing weights", **look) as bar:
        for path in mine:
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
                    bar.update(len(block))
            digests[path.name] = digest.hexdigest()
    found = {name: d for part in us.gather("weights", digests) for name, d in part.items()}
    config_json = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([config_json, sorted(found.items())]).encode()).hexdigest()


def glance(path: Path) -> bytes:
    """A file's name, its size, and 4 KB at nine places of it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        parts = [f"{path.name} {size} ".encode()]
        for i in range(9):
            file.seek(max(size - 4096, 0) * i // 8)
            parts.append(file.read(4096))
    return b"".join(parts)


def claim(workdir: Path):
    """A lock on the workdir, so that two runs do not write into it at once."""
    file = open(workdir / ".lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{workdir}: another run is writing here; wait for it, or take another --config.workdir"
        ) from None
    except OSError:
        pass  # a mounted bucket may know no locks
    return file


def check_shared(workdir: Path, us: Hosts) -> None:
    """Refuse a workdir that not all hosts see."""
    file = workdir / ".hosts"
    token = us.from_first("token", lambda: secrets.token_hex(8))
    if us.index == 0:
        file.write_text(token)
    us.gather("token written", None)
    deadline = time.monotonic() + SEEN_WITHIN
    while not (seen := file.is_file() and file.read_text() == token):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)  # a mounted bucket may remember for a while that there was none
    for host, sees in enumerate(us.gather("token seen", seen)):
        if not sees:
            raise OnAll(
                f"{us.names[host]}: does not see the --config.workdir of host 0; it must lie on a "
                "disk that all hosts share, such as a mounted bucket"
            )


def check_identity(workdir: Path, wanted: dict, force: bool) -> None:
    """Write identity.json, or refuse to resume where a value differs."""
    path = workdir / "identity.json"
    if path.is_file() and not force:
        try:
            found = json.loads(path.read_text())
        except ValueError:
            raise UserError(f"{path}: broken; restore it, or delete the run") from None
        for key in wanted | found:
            if found.get(key) != wanted.get(key):
                raise UserError(
                    f"{workdir}: was started with {key}={found.get(key)!r}, now it is "
                    f"{wanted.get(key)!r}; take another --config.workdir, or "
                    "--config.run.force_resume"
                )
    write_json(path, wanted)


def changed(path: Path, cfg: config.Config) -> bool:
    """Whether a finished run measured something else than what is asked for now."""
    ran = json.loads(path.read_text())
    asked = json.loads(json.dumps(config.to_dict(cfg)))
    return any(ran.get(part) != asked.get(part) for part in ("bench", "heldout"))


def write_json(path: Path, value: dict) -> None:
    """Write in one rename."""
    temp = path.with_suffix(".tmp")
    temp.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(temp, path)


def heldout_change(workdir: Path) -> str:
    """The held-out loss before and after, from the metrics file."""
    seen = [row.get("heldout_loss") for row in metrics.read(workdir / "metrics.jsonl")]
    seen = [loss for loss in seen if loss is not None]
    return f"; held-out loss {seen[0]:.3f} before, {seen[-1]:.3f} after" if seen else ""


def finished(cfg: config.Config, workdir: Path, steps: int) -> bool:
    """The last checkpoint, the export of that step and every bench asked for are there."""
    told = workdir / FINISHED
    if not told.is_file() or json.loads(told.read_text()) != {"steps": steps}:
        return False
    wanted = [workdir / "checkpoints" / str(steps), workdir / "hf" / "config.json"]
    if cfg.bench is not None and jax.process_count() == 1:
        at = {"both": [0, steps], "start": [0], "end": [steps], "none": []}[cfg.run.bench_at]
        wanted += [workdir / "eval" / f"step_{step}" / "scores.json" for step in at]
    if hasattr(cfg.bench, "report"):
        wanted.append(workdir / "report.html")
    if cfg.lora.rank:
        wanted.append(workdir / "adapter")
    return all(path.exists() for path in wanted)


def check_space(workdir: Path, state, keep: int) -> None:
    """Refuse a run whose checkpoints would fill the disk hours from now."""
    size, there = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(state)), 0
    for folder, _, names in os.walk(workdir / "checkpoints"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # Orbax deletes what a kill left half done
                there += os.stat(os.path.join(folder, name)).st_size
    wanted, free = (keep + 1) * size - there, shutil.disk_usage(workdir).free
    if wanted > free:
        raise UserError(
            f"{workdir}: {keep} checkpoints and one being written take {wanted / 1e9:.1f} GB more, "
            f"{free / 1e9:.1f} GB are free; free space, lower run.keep, or take another workdir"
        )
