"""Machines to compile for without having them: what a chip has, which slices there are.

A TPU's compiler is the package libtpu, an NVIDIA GPU's comes with JAX's CUDA plugin; neither needs
the machine.
"""

import difflib
import importlib.util
from dataclasses import dataclass
from importlib import metadata

from jax.experimental import topologies

from medsjax.errors import UserError

_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip by its maker's datasheet, and the slices it comes in, smallest first."""

    hbm_gib: float  # that a program may use: what the compiler says, for a TPU
    hbm_gbps: float  # to and from its own memory
    link_gbps: float  # sent to other chips, all its links together, one way
    slices: tuple[str, ...]


CHIPS = {
    "v4": Chip(hbm_gib=30.75, hbm_gbps=1228, link_gbps=300, slices=_3D),
    "v5e": Chip(hbm_gib=15.75, hbm_gbps=819, link_gbps=200, slices=_2D),
    "v5p": Chip(hbm_gib=95.74, hbm_gbps=2765, link_gbps=600, slices=_3D),
    "v6e": Chip(hbm_gib=31.25, hbm_gbps=1638, link_gbps=400, slices=_2D),
    # 140.4 GiB, of which XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 leaves CUDA and its libraries the rest
    "h200": Chip(hbm_gib=133.4, hbm_gbps=4800, link_gbps=450, slices=("", "2", "4", "8")),
}
SLICES = tuple(f"{kind}:{s}".rstrip(":") for kind, chip in CHIPS.items() for s in chip.slices)

# What XLA must know of a GPU that is not here (its GpuTargetConfigProto).
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  device_memory_size: 150754820096
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def chip(topology: str) -> Chip:
    """The chip of a slice; a UserError that lists the slices where there is no such one."""
    if topology not in SLICES:
        near = difflib.get_close_matches(topology, SLICES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"--topology {topology}: not known; {hint}there are {', '.join(SLICES)} "
            "(h200:N is N of them in one machine)"
        )
    return CHIPS[topology.partition(":")[0]]


def larger(topology: str) -> list[str]:
    """The slices of the same kind with more chips, the next one first."""
    kind, _, size = topology.partition(":")
    slices = CHIPS[kind].slices
    return [f"{kind}:{s}" for s in slices[slices.index(size) + 1 :]]


def devices(topology: str) -> list:
    """Its devices, one a chip, as a mesh and a compiler take them; no such machine is asked for."""
    chip(topology)
    kind, _, size = topology.partition(":")
    if kind == "h200":
        _need("jax_cuda13_plugin", topology, "gpu-plan")
        settings = {"topology": f"1x1x{size or 1}", "target_config": H200}
        return topologies.get_topology_desc("h200", "cuda", **settings).devices
    _need("libtpu", topology, "tpu-plan")
    settings = {"chip_config_name": "megacore"} if kind == "v4" else {}  # its two cores as one
    if size == "1x1":
        settings["chips_per_host_bounds"] = (1, 1, 1)
    return topologies.get_topology_desc(topology, "tpu", **settings).devices


def compiler(topology: str) -> str:
    """Which compiles for it: names and versions."""
    package = "jax-cuda13-plugin" if topology.startswith("h200") else "libtpu"
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", package))


def _need(module: str, topology: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--topology {topology}: its compiler is not installed; pip install -e '.[{extra}]'"
        )
