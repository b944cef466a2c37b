"""The mesh and where each array lies on it.

Two axes: `fsdp` splits the rows of a batch and every weight, `tensor` splits heads, ffn and
vocabulary. A parameter's own split stands beside its shape in model.py.
"""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax.errors import UserError

AXES = ("fsdp", "tensor")


def make_mesh(fsdp: int = 0, tensor: int = 0, devices: list | None = None) -> Mesh:
    """A (fsdp, tensor) mesh; 0 takes what is left, so the default is all devices on fsdp."""
    devices = jax.devices() if devices is None else devices
    tensor = tensor or (max(len(devices) // fsdp, 1) if fsdp else 1)
    fsdp = fsdp or max(len(devices) // tensor, 1)
    if fsdp * tensor != len(devices):
        raise UserError(
            f"run.mesh: {fsdp} x {tensor} does not use all {len(devices)} devices; "
            "the product must be the device count (0 takes what is left)"
        )
    return jax.make_mesh((fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def sampling_mesh(K: int, F: int, V: int, devices: list | None = None) -> Mesh:
    """All devices: as many of them on `tensor` as divide kv heads, ffn and vocabulary, so that
    decoding moves only activations; rows of a batch over the rest."""
    devices = jax.devices() if devices is None else devices
    return make_mesh(0, math.gcd(K, F, V, len(devices)), devices)


def one_device() -> Mesh:
    """A 1x1 mesh on the first local device."""
    return make_mesh(1, 1, jax.local_devices()[:1])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch [B, T] over fsdp."""
    return NamedSharding(mesh, P("fsdp", None))


def host_rows(mesh: Mesh) -> dict[str, int]:
    """Which part of a batch's rows this host feeds; hosts that share them feed the same part."""
    rows: dict[int, set[int]] = {}
    for row, devices in enumerate(mesh.devices):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(mine)) for mine in rows.values()})
    if sum(map(len, parts)) > len(mesh.devices) or len(set(map(len, parts))) > 1:
        raise UserError(
            f"run.mesh: {dict(mesh.shape)} splits rows unevenly over {len(rows)} hosts; choose "
            "tensor as a divisor or a multiple of a host's devices"
        )
    mine = tuple(sorted(rows[jax.process_index()]))
    return {"process_index": parts.index(mine), "process_count": len(parts)}


def constrain(x: jax.Array, *spec: str | None) -> jax.Array:
    """Pin an activation's split where a mesh is set; a no-op elsewhere."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))


def check_divisible(name: str, shape: tuple[int, ...], spec: P, mesh: Mesh) -> None:
    """Refuse a mesh that cannot split a parameter evenly."""
    for size, axis in zip(shape, spec, strict=False):
        ways = mesh.shape[axis] if axis else 1
        if size % ways:
            raise UserError(
                f"run.mesh: {name} {shape} has a side of {size}, which {axis}={ways} does not "
                "divide; choose another mesh"
            )
