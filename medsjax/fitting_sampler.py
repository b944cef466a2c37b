"""Does the sampler fit a machine that is not here, and with how many rows? Compile it and see.

B rows, S tokens of prompt and answer for which the cache has room. Sizes are bytes a chip.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax import collectives, convert, decoding, topologies
from medsjax.collectives import Collective
from medsjax.errors import UserError
from medsjax.fitting import GIB, bytes_a_chip, peak_bytes
from medsjax.model import Dims, Llama
from medsjax.sampler import CHUNK
from medsjax.sharding import make_mesh, sampling_mesh


@dataclass(frozen=True, kw_only=True)
class Need:
    """What compiling the sampler for B rows of S tokens has shown."""

    topology: str
    device_kind: str
    mesh: dict[str, int]
    dims: Dims
    batch: int
    length: int
    weights: int
    cache: int
    prefill: int | None = None  # temporaries beside both, of a prompt that fills the cache
    decode: int | None = None
    grow: int | None = None  # while the cache gets CHUNK tokens longer
    limit: float
    why: str = ""  # it does not fit
    collectives: tuple[Collective, ...] = ()  # of a decoded token

    @property
    def peak(self) -> int | None:
        """None where there is no program."""
        if self.prefill is None:
            return None
        return self.weights + self.cache + max(self.prefill, self.decode, self.grow)

    @property
    def chips(self) -> int:
        return self.mesh["fsdp"] * self.mesh["tensor"]

    @property
    def fits(self) -> bool:
        return not self.why


def need(folder: Path, topology: str, shape: tuple[int, int], dtype: str, B: int, S: int) -> Need:
    """Compile the sampler for a machine; `shape` (0, 0) is the mesh that sampling takes."""
    devices = topologies.devices(topology)
    dims = convert.read_config(folder)[1]
    if any(shape):
        mesh = make_mesh(*shape, devices=devices)
    else:
        mesh = sampling_mesh(dims.K, dims.F, dims.V, devices)
    if B % mesh.shape["fsdp"]:
        raise UserError(f"--batch {B}: must be a multiple of the {mesh.shape['fsdp']} on fsdp")
    model = convert.abstract(folder, mesh, dtype, dtype)
    unstack(model)
    found = Need(
        topology=topology,
        device_kind=devices[0].device_kind,
        mesh=dict(mesh.shape),
        dims=model.dims,
        batch=B,
        length=S,
        weights=bytes_a_chip(model),
        cache=2 * dims.L * B * dims.K * S * dims.H * jnp.dtype(dtype).itemsize // mesh.size,
        limit=topologies.chip(topology).hbm_gib * GIB,
    )
    if found.weights > found.limit:
        return replace(found, why=f"the weights alone take {found.weights / GIB:.1f} GiB")
    try:
        with jax.set_mesh(mesh):
            found = replace(found, **_compiled(model, mesh, devices[0].platform, B, S))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return replace(found, why=str(error).partition(":")[2].partition("\n")[0].strip(" ."))
    if found.peak > found.limit:
        return replace(found, why=f"it takes {found.peak / GIB:.1f} GiB")
    return found


def largest(measure: Callable[[int], Need], found: Need) -> Need | None:
    """The most rows that fit, found to a sixteenth by compiling; None: not even the least do.

    `measure` compiles a number of rows, `found` is one that was.
    """
    multiple = found.mesh["fsdp"]
    fits, fails = None, None
    while found.weights <= found.limit:
        fits, fails = (found, fails) if found.fits else (fits, found)
        low, high = fits.batch if fits else 0, fails.batch if fails else None
        if fails and high - low <= max(low // 16, multiple):
            break
        if (fits and fails) or found.peak is None:
            rows = (low + high) // 2
        else:  # as if all but the weights grew with the rows
            rows = int(found.batch * (found.limit - found.weights) / (found.peak - found.weights))
        rows = max(rows // multiple * multiple, low + max(low // 16 // multiple, 1) * multiple)
        found = measure(min(rows, high - multiple) if fails else rows)
    return fits


def unstack(model: Llama) -> None:
    """An abstract model's layers one by one, as `Llama.unstack` makes them of a real one's."""

    def layer(a: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(a.sharding.mesh, P(*a.sharding.spec[1:]))
        return jax.ShapeDtypeStruct(a.shape[1:], a.dtype, sharding=sharding)

    model.blocks = nnx.List(jax.tree.map(layer, model.blocks) for _ in range(model.dims.L))


def _compiled(model: Llama, mesh: Mesh, platform: str, B: int, S: int) -> dict:
    """Cache and temporaries of each of the sampler's programs: what one gives, the next takes."""
    peak = partial(peak_bytes, platform=platform)
    rows = jax.ShapeDtypeStruct((B,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((B, S), jnp.int32)
    _, (x, rope, segments) = _program(decoding._embed, model, tokens, rows, 0)
    layer, (x, kv) = _program(decoding._layer, model.blocks[0], x, rope, segments, None, S)
    _, logits = _program(decoding._last_logits, model, x)
    cache = [kv] * model.dims.L
    ended, numbers = (jax.ShapeDtypeStruct((B,), d) for d in (jnp.bool_, jnp.uint32))
    one, share = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    args = (model, list(model.blocks), (logits, ended, cache), (one, one, one))
    args += ((rows, rows, numbers), jax.ShapeDtypeStruct((2,), jnp.int32))
    settings = (share, share, jax.ShapeDtypeStruct((), jnp.uint32))
    decode, _ = _program(decoding.decode, *args, settings, greedy=True, steps=CHUNK)
    grow, _ = _program(decoding.grow_layer, [_shorter(a) for a in kv], rows, S)
    cached = bytes_a_chip(cache)
    return {
        "prefill": peak(layer) - bytes_a_chip((model.blocks[0], kv)),
        "decode": peak(decode) - bytes_a_chip(model) - cached,
        "grow": peak(grow) - bytes_a_chip(kv),
        "collectives": tuple(collectives.read(decode.as_text())),
    }


def _shorter(kv: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    B, K, S, H = kv.shape
    return jax.ShapeDtypeStruct((B, K, max(S - CHUNK, 1), H), kv.dtype, sharding=kv.sharding)


def _program(function, *args, **static):
    """A jitted function compiled for shapes, and what it gives, with shardings."""
    lowered = function.lower(*args, **static)
    compiled = lowered.compile()
    given = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        lowered.out_info,
        compiled.output_shardings,
    )
    return compiled, given
