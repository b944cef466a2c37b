"""One table HF tensor name <-> parameter, and the way of the bytes between folder and mesh."""

import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

from medsjax.errors import UserError
from medsjax.model import Block, Dims, Llama
from medsjax.safetensors_io import Box, Entry

# HF name <-> parameter; {} is the layer, whose weights lie stacked in `blocks`.
LLAMA = {
    "model.embed_tokens.weight": "embed_VD",
    "model.layers.{}.self_attn.q_proj.weight": "q_NHD",
    "model.layers.{}.self_attn.k_proj.weight": "k_KHD",
    "model.layers.{}.self_attn.v_proj.weight": "v_KHD",
    "model.layers.{}.self_attn.o_proj.weight": "o_DNH",
    "model.layers.{}.mlp.gate_proj.weight": "gate_FD",
    "model.layers.{}.mlp.up_proj.weight": "up_FD",
    "model.layers.{}.mlp.down_proj.weight": "down_DF",
    "model.layers.{}.input_layernorm.weight": "attn_norm_D",
    "model.layers.{}.post_attention_layernorm.weight": "mlp_norm_D",
    "model.norm.weight": "norm_D",
    "lm_head.weight": "unembed_VD",
}
# Tensors read at a time: a mounted bucket likes several, more than cores get in each other's way.
READERS = max(2, min(8, os.cpu_count() or 2))
PIECE = 1 << 23  # numbers of an embedding that one of them reads at a time


def templates(dims: Dims) -> list[str]:
    """The names in LLAMA that a checkpoint has."""
    return [name for name in LLAMA if not (name == "lm_head.weight" and dims.tied)]


def names(template: str, dims: Dims) -> list[str]:
    """The HF names behind one parameter, by layer."""
    return [template.format(i) for i in range(dims.L)] if "{}" in template else [template]


def expected(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Every HF tensor name of a checkpoint with its shape there, in the order they are written."""
    d = {letter: getattr(dims, letter) for letter in "VDFNKH"}
    shapes = {}
    for template in templates(dims):
        letters = LLAMA[template].rsplit("_", 1)[1]
        sides = [d[letter] for letter in letters]
        if "NH" in letters or "KH" in letters:  # heads are one side in HF
            at = letters.index("H")
            sides[at - 1 : at + 1] = [sides[at - 1] * sides[at]]
        shapes |= dict.fromkeys(names(template, dims), tuple(sides))
    return shapes


def locate(model: Llama, hf_name: str) -> tuple[nnx.Param, int | None]:
    """The parameter behind an HF name, and the layer where it is stacked."""
    if not hf_name.startswith("model.layers."):
        return getattr(model, LLAMA[hf_name]), None
    layer = hf_name.split(".")[2]
    name = LLAMA[hf_name.replace(f".{layer}.", ".{}.", 1)]
    if isinstance(model.blocks, Block):
        return getattr(model.blocks, name), int(layer)
    return getattr(model.blocks[int(layer)], name), None


def check_names(entries: dict[str, Entry], dims: Dims, folder: Path) -> None:
    """Refuse a folder whose tensors are not one to one those of its config.json."""
    wanted = expected(dims)
    for name, shape in wanted.items():
        if name not in entries:
            raise UserError(f"{folder}: tensor {name} is missing from the weights")
        if entries[name].shape != shape:
            have = entries[name].shape
            raise UserError(f"{folder}: tensor {name} is {have}; config.json asks for {shape}")
        entries[name].check_floating()
    for name in entries.keys() - wanted.keys():
        harmless = name.endswith("rotary_emb.inv_freq") or (dims.tied and name == "lm_head.weight")
        if not harmless:
            raise UserError(f"{folder}: tensor {name} belongs to no part of a {dims.L}-layer llama")


def fill(model: Llama, entries: dict[str, Entry]) -> None:
    """Read an abstract model's weights, cast on the way, to where its shardings say.

    Host memory beside the devices' own: this host's share of the largest parameter (on CPU that
    *is* the device's memory). No host reads a byte that none of its devices keeps.
    """
    look = {"desc": "weights", "unit": "tensor", "leave": False}
    look["disable"] = sum(leaf.size for leaf in jax.tree.leaves(model)) < 5e7
    total = len(expected(model.dims))
    with ThreadPoolExecutor(READERS) as pool, tqdm(total=total, **look) as bar:
        for template in templates(model.dims):
            hf_names = names(template, model.dims)
            param, layer = locate(model, hf_names[0])
            aim = param.get_value()
            where = aim.sharding.addressable_devices_indices_map(aim.shape)
            holders = shares(aim.shape, where)
            found = [entries[name] for name in hf_names]
            parts = read(found, aim.shape, aim.dtype, list(holders), layer is not None, pool)
            placed = [jax.device_put(parts[box], d) for box, held in holders.items() for d in held]
            whole = jax.make_array_from_single_device_arrays(aim.shape, aim.sharding, placed)
            param.set_value(jax.block_until_ready(whole))
            del parts, placed, whole  # else they are kept while the next are read
            bar.update(len(hf_names))


def shares(shape: tuple[int, ...], where: dict) -> dict[Box, list]:
    """Each distinct part of an array, and who holds it. `where`: device -> slices."""
    holders: dict[Box, list] = {}
    for device, index in where.items():
        box = tuple(s.indices(side)[:2] for s, side in zip(index, shape, strict=True))
        holders.setdefault(box, []).append(device)
    return holders


def read(
    found: list[Entry], shape: tuple[int, ...], dtype, boxes: list[Box], stacked: bool, pool
) -> dict[Box, np.ndarray]:
    """Parts of one parameter: of its tensor, or of its layers' tensors stacked on a first axis."""
    parts = {box: _aligned([b - a for a, b in box], dtype) for box in boxes}
    rows = 1 if stacked else max(PIECE * shape[0] // prod(shape), 1)

    def one(first: int) -> None:
        here = {}
        for box, part in parts.items():
            a, b = max(box[0][0], first), min(box[0][1], first + rows)
            if a < b:
                here[((a, b), *box[1:])] = part[a - box[0][0] : b - box[0][0]]
        if stacked:
            layers = {box[1:]: part[0] for box, part in here.items()}
            return found[first].fill(shape[1:], layers)
        return found[0].fill(shape, here)

    list(pool.map(one, range(0, shape[0], rows)))
    return parts


def _aligned(shape: list[int], dtype) -> np.ndarray:
    """An empty array in pages of its own: XLA's CPU client then takes it as it lies, uncopied."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


def fetch(model: Llama, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """One HF tensor of a model, on the host. Where several hosts hold it, all must ask for it."""
    param, layer = locate(model, name)
    value = param[...] if layer is None else param[...][layer]
    value = value.astype(dtype)
    if not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value).reshape(shape)
