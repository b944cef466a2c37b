"""Orbax checkpoints of the whole training state, with a checksum per leaf.

Orbax restores a flipped bit without a word, so every leaf's sum travels in the metadata and is
compared after a restore.
"""

import contextlib
import hashlib
import re
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


def fingerprint(model) -> str:
    """sha256 over names, shapes, dtypes and checksums of all parameters: what a model is.

    The same whether its layers are stacked or not.
    """
    sums = checksums(model)
    found: dict[str, list] = {}
    for name, leaf in flat(model).items():
        stacked = re.sub(r"^blocks\.\d+\.", "blocks.", name)
        layers = leaf.shape[:1] if name.startswith("blocks.") and stacked == name else ()
        shape = leaf.shape[len(layers) :]
        known = found.setdefault(stacked, [0, shape, np.dtype(leaf.dtype).name, 0])
        known[0] += layers[0] if layers else 1
        known[3] = (known[3] + sums[name]) % 2**32
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


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
        with self._told(step):
            self.manager.save(step, args=parts)

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
        state = ocp.args.StandardRestore(names)
        if part:
            how = ocp.checkpoint_utils.construct_restore_args(names)
            state = ocp.args.PyTreeRestore(names, restore_args=how, partial_restore=True)
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
        except (ValueError, OSError) as error:
            reason = "no space left" if "RESOURCE_EXHAUSTED" in str(error) else type(error).__name__
            raise UserError(
                f"{self.folder}: checkpoint {step} could not be written ({reason}); free space, "
                "then the same command continues from the one before"
            ) from error
