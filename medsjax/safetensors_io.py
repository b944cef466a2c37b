"""Safetensors folders, read tensor by tensor with pread and written shard by shard.

The library's loaders map whole files or hold whole shards in memory; here one tensor is in memory
at a time. Both directions keep every bit.
"""

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from operator import index
from pathlib import Path

import ml_dtypes
import numpy as np

from medsjax.errors import UserError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: file, dtype name, shape, first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def check_floating(self, name: str) -> None:
        """Refuse what is no weight (quantised tensors, for one)."""
        if self.dtype not in DTYPES:
            raise UserError(
                f"{self.file}: tensor {name} has dtype {self.dtype}; "
                f"weights must be floating point ({', '.join(DTYPES)})"
            )

    def read(self, name: str) -> np.ndarray:
        """The tensor, exactly as stored."""
        self.check_floating(name)
        dtype = DTYPES[self.dtype]
        out = np.empty(self.shape, dtype)
        buffer, at = memoryview(out.reshape(-1).view(np.uint8)), 0
        with open(self.file, "rb") as file:
            while at < len(buffer):
                got = os.preadv(file.fileno(), [buffer[at : at + (1 << 30)]], self.offset + at)
                if got == 0:
                    raise UserError(f"{self.file}: truncated inside tensor {name}; fetch it again")
                at += got
        return out


def entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder of safetensors, by name, checked against index and file sizes."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        hint = "only pickled weights, which are never loaded; convert them" if other else "none"
        raise UserError(f"{folder}: no *.safetensors file here ({hint})")
    if len(files) > 1:
        raise UserError(f"{folder}: {len(files)} shards but no {INDEX}; fetch the index")
    return dict(_header(files[0]))


def _indexed(folder: Path) -> dict[str, Entry]:
    try:
        where = json.loads((folder / INDEX).read_text())["weight_map"]
        shards = sorted(set(map(str, where.values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / INDEX}: broken ({type(error).__name__}: {error}); it needs a weight_map"
        ) from None
    found: dict[str, Entry] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise UserError(f"{folder / INDEX}: names {shard}, which is not there; fetch it")
        found.update(_header(folder / shard))
    for name, shard in where.items():
        if name not in found or found[name].file.name != shard:
            raise UserError(f"{folder / INDEX}: says {name} is in {shard}, which does not hold it")
    return found


def _header(path: Path) -> Iterator[tuple[str, Entry]]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise UserError(f"{path}: truncated ({size} bytes, header wants more); fetch it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            table = {name: _place(fields) for name, fields in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            raise UserError(f"{path}: not a safetensors file ({kind} in its header)") from None
    for name, (dtype, shape, begin, end) in table.items():
        if 8 + length + end > size:
            raise UserError(
                f"{path}: truncated: tensor {name} ends at byte {8 + length + end} of {size}; "
                "fetch it again"
            )
        fits = dtype not in DTYPES or prod(shape) * DTYPES[dtype].itemsize == end - begin
        if begin < 0 or not fits:
            raise UserError(f"{path}: tensor {name}: shape {shape} does not fit its bytes")
        yield name, Entry(path, dtype, shape, 8 + length + begin)


def _place(fields: dict) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, first byte and end of one tensor in a header; `index` takes integers alone."""
    begin, end = map(index, fields["data_offsets"])
    return str(fields["dtype"]), tuple(map(index, fields["shape"])), begin, end


def write(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: str,
    fetch: Callable[[str], np.ndarray],
    max_bytes: int = 5 * 10**9,
) -> None:
    """Write tensors as model.safetensors, or as shards of at most `max_bytes` with an index.

    `dtype` is a numpy name; `fetch(name)` gives a tensor of it when its turn comes.
    """
    stored = next(k for k, v in DTYPES.items() if v.name == dtype)
    sizes = {n: prod(s) * DTYPES[stored].itemsize for n, s in shapes.items()}
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[n] for n in shards[-1]) + sizes[name] > max_bytes:
            shards.append([])
        shards[-1].append(name)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        where = {n: file for file, shard in zip(names, shards, strict=True) for n in shard}
        listing = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(listing, indent=2))
    for file, shard in zip(names, shards, strict=True):
        _write_shard(folder / file, shard, shapes, sizes, stored, fetch)


def _write_shard(path, shard, shapes, sizes, stored, fetch) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in shard:
        header[name] = {
            "dtype": stored,
            "shape": list(shapes[name]),
            "data_offsets": [at, at + sizes[name]],
        }
        at += sizes[name]
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name in shard:
            value = np.ascontiguousarray(fetch(name))
            assert value.dtype == DTYPES[stored] and value.shape == shapes[name], name
            file.write(value.reshape(-1).view(np.uint8).data)
