"""Safetensors folders, read box by box with pread and written shard by shard.

The library's loaders map whole files or hold whole shards in memory; here only what is asked for is
read, straight to where it stays. Both directions keep every bit.
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

from medsjax.errors import UserError, writing

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
INDEX = "model.safetensors.index.json"
CHUNK = 1 << 21  # bytes read at once where they are cast or cut up: what a core's cache holds
# First and past-the-end index on each axis of a tensor.
Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its name there, file, dtype name, shape, first byte."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def check_floating(self) -> None:
        """Refuse what is no weight (quantised tensors, for one)."""
        if self.dtype not in DTYPES:
            raise UserError(
                f"{self.file}: tensor {self.name} has dtype {self.dtype}; "
                f"weights must be floating point ({', '.join(DTYPES)})"
            )

    def read(self) -> np.ndarray:
        """The tensor, exactly as stored."""
        self.check_floating()
        out = np.empty(prod(self.shape), DTYPES[self.dtype])
        self.fill(out.shape, {((0, out.size),): out})
        return out.reshape(self.shape)

    def fill(self, shape: tuple[int, ...], parts: dict[Box, np.ndarray]) -> None:
        """Read boxes of the tensor, taken as `shape`, into arrays of their sizes, cast to theirs.

        Boxes that together make up one, as a host's parts of a sharded array do, are read in one
        pass. Bytes outside the boxes are never read.
        """
        self.check_floating()
        hull = tuple((min(a for a, _ in s), max(b for _, b in s)) for s in zip(*parts, strict=True))
        whole = sum(map(_volume, parts)) == _volume(hull)
        groups = [(hull, parts)] if whole else [(box, {box: out}) for box, out in parts.items()]
        with open(self.file, "rb") as file:
            for box, inside in groups:
                self._read_box(file.fileno(), shape, box, inside)

    def _read_box(self, fd: int, shape, box: Box, parts: dict[Box, np.ndarray]) -> None:
        """Rows of `box` in chunks, each cut up among the `parts` that make it up."""
        dtype, (first, last) = DTYPES[self.dtype], box[0]
        width = _volume(box[1:])
        step = max(CHUNK // max(width * dtype.itemsize, 1), 1)
        out = parts.get(box)
        direct = out is not None and out.dtype == dtype and out.flags.c_contiguous
        buffer = None if direct else np.empty((min(step, last - first), width), dtype)
        for row in range(first, last, step):
            end = min(row + step, last)
            rows = out[row - first : end - first] if direct else buffer[: end - row]
            self._pread(fd, shape, ((row, end), *box[1:]), rows)
            if not direct:
                sides = [b - a for a, b in box[1:]]
                _share(rows.reshape(end - row, *sides), ((row, end), *box[1:]), parts)

    def _pread(self, fd: int, shape, box: Box, out: np.ndarray) -> None:
        """The bytes of a box, run by run, into a contiguous array."""
        size = DTYPES[self.dtype].itemsize
        starts, length = runs(shape, box)
        buffer, at, length = memoryview(out.reshape(-1).view(np.uint8)), 0, length * size
        for start in (self.offset + starts * size).tolist():
            end = at + length
            while at < end:
                got = os.preadv(fd, [buffer[at:end]], start)
                if got == 0:
                    raise UserError(
                        f"{self.file}: truncated inside tensor {self.name}; fetch it again"
                    )
                at, start = at + got, start + got


def runs(shape: tuple[int, ...], box: Box) -> tuple[np.ndarray, int]:
    """The contiguous runs of a box of a row-major array: the first element of each, their length.

    They come in order and never touch, so what lies between them is not the box's.
    """
    inner = len(shape)
    while inner and box[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
    outer = max(inner - 1, 0)  # axes before the first of a run
    starts, length = np.zeros(1, np.int64), prod(shape[outer + 1 :])
    for axis, (a, b) in enumerate(box[:outer]):
        starts = (starts[:, None] + np.arange(a, b) * prod(shape[axis + 1 :])).reshape(-1)
    if shape:
        a, b = box[outer]
        starts, length = starts + a * length, (b - a) * length
    return starts, length


def _share(rows: np.ndarray, at: Box, parts: dict[Box, np.ndarray]) -> None:
    """Copy what of `rows`, which lie `at` a place of the tensor, belongs to each part."""
    for box, out in parts.items():
        both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(at, box, strict=True)]
        if all(a < b for a, b in both):
            source = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, at, strict=True))
            target = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, box, strict=True))
            out[target] = rows[source]


def _volume(box: Box) -> int:
    return prod(b - a for a, b in box)


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
        yield name, Entry(name, path, dtype, shape, 8 + length + begin)


def _place(fields: dict) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, first byte and end of one tensor in a header; `index` takes integers alone."""
    begin, end = map(index, fields["data_offsets"])
    return str(fields["dtype"]), tuple(map(index, fields["shape"])), begin, end


def write(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, str],
    fetch: Callable[[str], np.ndarray],
    max_bytes: int = 5 * 10**9,
) -> None:
    """Write tensors as model.safetensors, or as shards of at most `max_bytes` with an index.

    `dtypes` are numpy names; `fetch(name)` gives a tensor of its dtype when its turn comes.
    """
    stored = {v.name: k for k, v in DTYPES.items()}
    kinds = {n: stored[dtypes[n]] for n in shapes}
    sizes = {n: prod(s) * DTYPES[kinds[n]].itemsize for n, s in shapes.items()}
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
        with writing(folder / file):
            _write_shard(folder / file, shard, shapes, sizes, kinds, fetch)


def _write_shard(path, shard, shapes, sizes, kinds, fetch) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in shard:
        header[name] = {
            "dtype": kinds[name],
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
            assert value.dtype == DTYPES[kinds[name]] and value.shape == shapes[name], name
            file.write(value.reshape(-1).view(np.uint8).data)
