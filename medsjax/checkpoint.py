"""Orbax checkpoints of the whole training state, with a checksum per leaf.

Orbax restores a flipped bit without a word, so every leaf's sum travels in the metadata and is
compared after a restore.
"""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from medsjax.errors import UserError


def flat(tree) -> dict[str, jax.Array]:
    """A pytree's leaves by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    """uint32 sum of each leaf's bits: the same on every mesh."""

    def bits(a: jax.Array) -> jax.Array:
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[a.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(a, kind).astype(jnp.uint32), dtype=jnp.uint32)

    return [bits(a) for a in leaves]


def checksums(tree) -> dict[str, int]:
    """One uint32 a leaf, by dotted path."""
    leaves = flat(tree)
    return dict(zip(leaves, map(int, jax.device_get(_sums(list(leaves.values())))), strict=True))


def fingerprint(tree) -> str:
    """sha256 over names, shapes, dtypes and checksums of all leaves: what a model is."""
    shapes = {k: (v.shape, np.dtype(v.dtype).name) for k, v in flat(tree).items()}
    return hashlib.sha256(repr((sorted(shapes.items()), checksums(tree))).encode()).hexdigest()


class Checkpoints:
    """The last `keep` states under one folder."""

    def __init__(self, folder: str | Path, keep: int):
        self.folder = Path(folder).absolute()  # Orbax wants no relative ones
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, tree) -> None:
        """Write in the background; a kill half way leaves the previous step intact."""
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(flat(tree)),
            meta=ocp.args.JsonSave({"step": step, "checksums": checksums(tree)}),
        )
        self.manager.save(step, args=parts)

    def restore(self, abstract):
        """The last state in the shape and sharding of `abstract`; refuses damaged bytes."""
        step = self.latest
        names = flat(abstract)
        try:
            parts = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(names), meta=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, FileNotFoundError, KeyError, OSError) as error:
            raise UserError(self._damaged(step, f"{type(error).__name__}")) from error
        tree = jax.tree.unflatten(jax.tree.structure(abstract), [parts.state[n] for n in names])
        for name, wanted in parts.meta["checksums"].items():
            if checksums({name: parts.state[name]})[name] != wanted:
                raise UserError(self._damaged(step, f"checksum of {name} differs"))
        return step, tree

    def _damaged(self, step: int, why: str) -> str:
        return (
            f"{self.folder}/{step}: the checkpoint is damaged ({why}); "
            "delete that folder to continue from the one before"
        )

    def close(self) -> None:
        """Wait for the last write."""
        self.manager.wait_until_finished()
        self.manager.close()
