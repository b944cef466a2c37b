"""Orbax checkpoints of the whole training state, with a checksum per leaf.

Orbax restores a flipped bit without a word, so every leaf's sum travels in the metadata and is
compared after a restore. It also copies all of a state to the host before it writes: of 8B in
float32 on one GPU 96 GB, where XLA pins 64 GB at most. So a state that is large beside this host's
free memory goes in batches, and the next step waits for them.
"""

import contextlib
import hashlib
import re
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import psutil

from medsjax.errors import UserError


def flat(tree) -> dict[str, jax.Array]:
    """A pytree's leaves by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _bits(a: jax.Array) -> jax.Array:
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[a.dtype.itemsize]
    return jax.lax.bitcast_convert_type(a, kind).astype(jnp.uint32)


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    """uint32 sum of each leaf's bits: the same on every mesh."""
    return [jnp.sum(_bits(a), dtype=jnp.uint32) for a in leaves]


@jax.jit
def _placed_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    """The same, each element's bits times its place, counted along the last axis first."""

    def one(a: jax.Array) -> jax.Array:
        places = jnp.zeros(a.shape, jnp.uint32)
        for axis in range(a.ndim):
            index = jax.lax.broadcasted_iota(jnp.uint32, a.shape, axis)
            places += index * jnp.uint32(prod(a.shape[axis + 1 :]) % 2**32)
        return jnp.sum(_bits(a) * places, dtype=jnp.uint32)

    return [one(a) for a in leaves]


def checksums(tree) -> dict[str, int]:
    """One uint32 a leaf, by dotted path."""
    leaves = flat(tree)
    return dict(zip(leaves, map(int, jax.device_get(_sums(list(leaves.values())))), strict=True))


def fingerprint(model) -> str:
    """sha256 over names, shapes, dtypes and two sums of all parameters: what a model is.

    One sum is of the bits, one of the bits by their place; both are the same whether the layers
    are stacked or not.
    """
    leaves = flat(model)
    sums, placed = (f(list(leaves.values())) for f in (_sums, _placed_sums))
    found: dict[str, list] = {}
    for (name, leaf), total, by_place in zip(leaves.items(), sums, placed, strict=True):
        total, by_place = int(total), int(by_place)
        stacked = re.sub(r"^blocks\.\d+\.", "blocks.", name)
        layers = leaf.shape[:1] if name.startswith("blocks.") and stacked == name else ()
        shape = leaf.shape[len(layers) :]
        known = found.setdefault(stacked, [0, shape, np.dtype(leaf.dtype).name, 0, 0])
        known[4] = (known[4] + by_place + known[0] * leaf.size * total) % 2**32
        known[3] = (known[3] + total) % 2**32
        known[0] += layers[0] if layers else 1
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def room() -> int:
    """Bytes of this host's memory that a state may take on its way to or from the disk."""
    free = psutil.virtual_memory().available // 3
    return min(free, 48 * 10**9) if jax.default_backend() == "gpu" else free


def held(leaf) -> int:
    """Bytes of an array, or of its shape, that this host's devices hold, each part once."""
    where = leaf.sharding.addressable_devices_indices_map(leaf.shape)
    parts = len({str(index) for index in where.values()})
    return parts * prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _in_batches(first: str) -> dict:
    """Settings of Orbax's handler by which `save` copies one leaf at once, the rest later.

    By private names, for want of public ones; where they are gone, all is copied at once.
    """
    try:
        from orbax.checkpoint._src.serialization import types
        from orbax.checkpoint.type_handlers import ArrayHandler, create_type_handler_registry

        now, later = (
            types.TransferPriority.SYNCHRONOUS,
            types.TransferPriority.ASYNCHRONOUS_PRIORITIZED,
        )

        class Batches(types.DefaultSerializationStatusCallback):
            def key_priority(self, keypath):  # with none at once, each save would warn
                return now if keypath[0].key == first else later

        handler = ArrayHandler(callback=Batches())
    except (ImportError, AttributeError, TypeError):
        return {"enable_pinned_host_transfer": False}
    return {"type_handler_registry": create_type_handler_registry((jax.Array, handler))}


class Checkpoints:
    """The last `keep` states under one folder; `state` is the shape of one.

    `space` is the least `room` of all hosts, which must save in the same way.
    """

    def __init__(self, folder: str | Path, keep: int | None, state, space: int):
        self.folder = Path(folder).absolute()  # Orbax wants no relative ones
        leaves, batch = flat(state), space // 2
        sizes = {name: held(leaf) for name, leaf in leaves.items()}
        self.in_batches = sum(sizes.values()) > space
        largest = max(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        settings = {"restore_concurrent_gb": max(batch, 2 * largest) / 1e9}
        if self.in_batches:  # two are in memory at a time
            settings |= _in_batches(min(sizes, key=sizes.get))
            settings["save_device_host_concurrent_gb"] = batch / 1e9
        handlers = {"state": ocp.PyTreeCheckpointHandler(**settings)}
        handlers["meta"] = ocp.JsonCheckpointHandler()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    @property
    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, tree) -> None:
        """Write in the background; a kill half way leaves the previous step intact."""
        parts = ocp.args.Composite(
            state=ocp.args.PyTreeSave(flat(tree)),
            meta=ocp.args.JsonSave({"step": step, "checksums": checksums(tree)}),
        )
        with self._told(step):
            self.manager.save(step, args=parts)
            if self.in_batches:  # before the next step overwrites what is not yet copied
                self.manager.wait_until_finished()

    def restore(self, abstract, step: int | None = None, part: bool = False):
        """A state (None: the last) in the shape and sharding of `abstract`; refuses damaged bytes.

        `part`: `abstract` is a beginning of the state, as (model,), and no more is read.
        """
        steps = self.manager.all_steps()
        step = self.latest if step is None else step
        if step not in steps:
            there = ", ".join(map(str, sorted(steps))) or "none"
            what = "" if step is None else f" {step}"
            raise UserError(f"{self.folder}: no checkpoint{what}; there are: {there}")
        names = flat(abstract)
        how = ocp.checkpoint_utils.construct_restore_args(names)
        state = ocp.args.PyTreeRestore(names, restore_args=how, partial_restore=part)
        parts = ocp.args.Composite(state=state, meta=ocp.args.JsonRestore())
        try:
            found = self.manager.restore(step, args=parts)
        except (ValueError, FileNotFoundError, KeyError, OSError) as error:
            raise UserError(self._damaged(step, f"{type(error).__name__}")) from error
        tree = jax.tree.unflatten(jax.tree.structure(abstract), [found.state[n] for n in names])
        for name in found.meta["checksums"] if not part else names:
            if checksums({name: found.state[name]})[name] != found.meta["checksums"].get(name):
                raise UserError(self._damaged(step, f"checksum of {name} differs"))
        return step, tree

    def _damaged(self, step: int, why: str) -> str:
        return (
            f"{self.folder}/{step}: the checkpoint is damaged ({why}); "
            "delete that folder to continue from the one before"
        )

    def close(self) -> None:
        """Wait for the last write."""
        with self._told("the last one"):
            self.manager.wait_until_finished()
        self.manager.close()

    @contextlib.contextmanager
    def _told(self, step):
        """What goes wrong with a write, an earlier one's too, in one line."""
        try:
            yield
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            full = "RESOURCE_EXHAUSTED" in str(error)
            on_host = isinstance(error, jax.errors.JaxRuntimeError)
            if on_host and not full:  # not the disk's, perhaps another host's end
                raise
            what = "out of host memory" if on_host else "no space left"
            raise UserError(
                f"{self.folder}: checkpoint {step} could not be written "
                f"({what if full else type(error).__name__}); make room, then the same command "
                "continues from the one before"
            ) from error
