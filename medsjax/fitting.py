"""Does a training step fit a machine that is not here? Compile it and see; if not, what would fit.

Sizes are bytes a chip.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from medsjax import collectives, convert, input_pipeline, optim, topologies
from medsjax.collectives import Collective
from medsjax.config import Config
from medsjax.errors import UserError
from medsjax.model import Dims
from medsjax.sharding import batch_sharding, make_mesh
from medsjax.step import abstract_start, jit_step
from medsjax.train import check_rows

GIB = 2**30
STEPS = 1000  # of the schedule, whose length changes no shape


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What compiling the step of one setting for one machine has shown."""

    cfg: Config
    topology: str
    device_kind: str
    mesh: dict[str, int]
    dims: Dims
    params: int
    trained: int  # of them; adapters train beside a frozen base
    optimizer: int
    batch: int
    checkpoint: int  # of all chips
    peak: int | None = None  # None where there is no program: it does not fit
    fits: bool = False
    why: str = ""  # it does not fit
    collectives: tuple[Collective, ...] = ()

    @property
    def chips(self) -> int:
        return self.mesh["fsdp"] * self.mesh["tensor"]


def fit(cfg: Config, folder: Path, topology: str) -> Fit:
    """Compile the step that `train` would run; `folder` needs no more than a config.json."""
    mesh, limit = machine(cfg, folder, topology), topologies.chip(topology).hbm_gib * GIB
    devices = mesh.devices.flat
    optimizer = optim.make(cfg.optim, STEPS)
    state, base = abstract_start(cfg, folder, optimizer, mesh)
    batch = abstract_batch(cfg, mesh)
    found = Fit(
        cfg=cfg,
        topology=topology,
        device_kind=devices[0].device_kind,
        mesh=dict(mesh.shape),
        dims=(base or state[0]).dims,
        params=bytes_a_chip((state[0], base)),
        trained=bytes_a_chip(state[0]),
        optimizer=bytes_a_chip(state[1]),
        batch=bytes_a_chip(batch),
        checkpoint=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    )
    if (held := found.params + found.optimizer) > limit:
        return replace(found, why=f"parameters and optimizer alone take {held / GIB:.1f} GiB")
    with jax.set_mesh(mesh):
        update = jit_step(state, optimizer, cfg.run.accumulate, cfg.run.remat)
        lowered = update.lower(*state, batch, base)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return replace(found, why=str(error).partition(":")[2].partition("\n")[0].strip(" ."))
    peak = peak_bytes(compiled, devices[0].platform)
    return replace(
        found,
        peak=peak,
        fits=peak <= limit,
        why="" if peak <= limit else f"it takes {peak / GIB:.1f} GiB",
        collectives=tuple(collectives.read(compiled.as_text())),
    )


def machine(cfg: Config, folder: Path, topology: str) -> Mesh:
    """The mesh that a config asks for; UserError where machine, batch or model do not allow it."""
    mesh = make_mesh(*cfg.run.mesh, devices=topologies.devices(topology))
    check_rows(cfg, mesh)
    convert.abstract(folder, mesh, cfg.dtype, cfg.dtype)
    return mesh


def abstract_batch(cfg: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a step that the input pipeline gives, as shapes."""
    shape, sharding = (cfg.batch, cfg.length), batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, a.dtype, sharding=sharding)
        for name, a in input_pipeline.assemble([], cfg.length).items()
    }


def bytes_a_chip(tree) -> int:
    """Of abstract arrays, by their shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def peak_bytes(compiled, platform: str) -> int:
    """The most memory in use at a time while a program runs, its arguments among it."""
    m = compiled.memory_analysis()
    if platform == "tpu":  # whose temporaries are counted without reuse of donated arguments
        return m.peak_memory_in_bytes
    arguments = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return arguments + m.temp_size_in_bytes + m.generated_code_size_in_bytes


def nearest(cfg: Config, folder: Path, topology: str, tell: Callable[[Fit], None]) -> Fit | None:
    """The first setting that fits, having compiled it, of those that need less than `cfg` does.

    In this order: more parts of a step, all of a layer computed again, a first moment in bfloat16,
    more of `tensor`, more chips. `tell` hears of each that was tried.
    """

    def tried(rung: Config, slice_: str) -> bool:
        attempts.append(fit(rung, folder, slice_))
        tell(attempts[-1])
        return attempts[-1].fits

    attempts: list[Fit] = []
    for slice_, start in _starts(cfg, topology):
        with contextlib.suppress(UserError):  # a mesh that does not divide the model
            mesh = make_mesh(*start.run.mesh, devices=topologies.devices(slice_))
            rungs = [r for r in ladder(start, mesh.shape["fsdp"]) if r != cfg or slice_ != topology]
            if slice_ != topology and rungs and tried(rungs.pop(0), slice_):
                return attempts[-1]
            if rungs and tried(rungs[-1], slice_):  # where the leanest does not fit, none does
                leanest = attempts[-1]
                return next((attempts[-1] for r in rungs[:-1] if tried(r, slice_)), leanest)
    return None


def _starts(cfg: Config, topology: str) -> Iterator[tuple[str, Config]]:
    """The machine and setting at which each ladder begins, the nearest first."""
    tensor = make_mesh(*cfg.run.mesh, devices=topologies.devices(topology)).shape["tensor"]
    same = 0 if tensor == 1 else tensor
    leaner = [] if cfg.run.remat == "full" else [_run(cfg, remat="full")]
    for start in (cfg, *leaner):
        yield topology, start
    for ways in (2 * tensor, 4 * tensor, 8 * tensor):
        yield topology, _run(cfg, remat="full", mesh=(0, ways))
    for slice_ in topologies.larger(topology):
        for start in (cfg, *leaner):
            yield slice_, _run(start, mesh=(0, same))


def _run(cfg: Config, **changes) -> Config:
    return replace(cfg, run=replace(cfg.run, **changes))


def ladder(cfg: Config, fsdp: int) -> Iterator[Config]:
    """`cfg`, then settings on the same mesh that each need less memory than the one before."""
    if cfg.batch // cfg.run.accumulate % fsdp:
        return
    yield cfg
    while cfg.batch // cfg.run.accumulate % (2 * fsdp) == 0:
        cfg = _run(cfg, accumulate=2 * cfg.run.accumulate)
        yield cfg
    if cfg.run.remat == "full" and cfg.optim.m_dtype != "bfloat16":
        yield replace(cfg, optim=replace(cfg.optim, m_dtype="bfloat16"))
