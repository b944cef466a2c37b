"""LoRA: the base stays as it is, and beside each chosen weight W a product of low rank is trained.

    W + alpha / rank * B A        (Hu et al. 2021; A uniform, B zero at the start, as PEFT has them)

The base is held in the compute dtype, the adapters in float32; gradients, moments and checkpoints
are the adapters' alone. A layer adds B (A x) to its products and leaves W as it is: no gradient of
W's size is made, and no bfloat16 W swallows what is less than half its last bit.

R rank; a weight's own letters are those of its name in model.py.
"""

import json
import os
import tempfile
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from medsjax.config import LoRA
from medsjax.model import Block, Llama
from medsjax.weights import LLAMA

# PEFT's target -> (its name in Block, the letters that come out of it, those that go in)
WEIGHTS = {
    "q_proj": ("q_NHD", "NH", "D"),
    "k_proj": ("k_KHD", "KH", "D"),
    "v_proj": ("v_KHD", "KH", "D"),
    "o_proj": ("o_DNH", "D", "NH"),
    "gate_proj": ("gate_FD", "F", "D"),
    "up_proj": ("up_FD", "F", "D"),
    "down_proj": ("down_DF", "D", "F"),
}


@partial(jax.tree_util.register_dataclass, data_fields=["A", "B"], meta_fields=["scale"])
@dataclass(frozen=True)
class Adapters:
    """By target, A [L, R, in…] and B [L, out…, R], float32; inside the layers' scan without L."""

    A: dict[str, jax.Array]
    B: dict[str, jax.Array]
    scale: float = field(metadata={"static": True})  # alpha / rank


def abstract(base: Llama, settings: LoRA, mesh: Mesh) -> Adapters:
    """The adapters of a base (its abstract model will do) as shapes and shardings."""
    A, B = {}, {}
    for target in settings.targets:
        name, out, into = WEIGHTS[target]
        weight = getattr(base.blocks, name).get_value()
        (L, *sides), (_, *spec) = weight.shape, weight.sharding.spec
        o, R = len(out), settings.rank

        def array(*parts):
            shape, axes = zip(*parts, strict=True)
            where = NamedSharding(mesh, P(*axes))
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)

        ways = list(zip(sides, spec, strict=True))
        A[target] = array((L, None), (R, None), *ways[o:])
        B[target] = array((L, None), *ways[:o], (R, None))
        assert len(ways) == len(out + into)
    return Adapters(A, B, settings.alpha / settings.rank)


def init(aim: Adapters, seed: int) -> Adapters:
    """A from U(-1/sqrt(in), 1/sqrt(in)), keyed by seed and target; B zero: the base to the bit."""

    def make():
        A = {}
        for target, a in aim.A.items():
            key = jax.random.fold_in(jax.random.key(seed), list(WEIGHTS).index(target))
            edge = prod(a.shape[2:]) ** -0.5
            A[target] = jax.random.uniform(key, a.shape, a.dtype, -edge, edge)
        return Adapters(A, {t: jnp.zeros(b.shape, b.dtype) for t, b in aim.B.items()}, aim.scale)

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, aim))()


class AdaptedBlock(Block):
    """A layer, or all of them stacked, whose products add what its adapters give."""

    def __init__(self, block: Block, adapters: Adapters):
        self.dims, self.block, self.adapters = block.dims, block, nnx.data(adapters)

    @property
    def attn_norm_D(self):
        return self.block.attn_norm_D

    @property
    def mlp_norm_D(self):
        return self.block.mlp_norm_D

    def product(self, equation: str, x: jax.Array, name: str) -> jax.Array:
        y = self.block.product(equation, x, name)
        target, out, into = next((t, *rest) for t, (n, *rest) in WEIGHTS.items() if n == name)
        if target not in self.adapters.A:
            return y
        A, B = (part[target].astype(x.dtype) for part in (self.adapters.A, self.adapters.B))
        low_BTR = jnp.einsum(f"{equation.split(',')[0]},R{into}->BTR", x, A)
        added = jnp.einsum(f"BTR,{out}R->{equation.split('->')[1]}", low_BTR, B)
        return y + self.adapters.scale * added


def adapted(base: Llama, adapters: Adapters) -> Llama:
    """The base with adapters beside its weights; the arrays are the base's own."""
    model = jax.tree.map(lambda a: a, base)
    model.blocks = AdaptedBlock(model.blocks, adapters)
    return model


def merge(block: Block, adapters: Adapters) -> Block:
    """A block with the adapters in its weights: of one layer, or of all where both are stacked.

    Summed in float32, in the weights' dtype after.
    """
    block = nnx.clone(block)
    for target, A in adapters.A.items():
        name, out, into = WEIGHTS[target]
        param, L = getattr(block, name), "L" * (A.ndim - 1 - len(into))
        product = f"{L}{out}R,{L}R{into}->{L}{out}{into}"
        delta = jnp.einsum(product, adapters.B[target], A) * adapters.scale
        weight = param.get_value()
        param.set_value((weight.astype(jnp.float32) + delta).astype(weight.dtype))
    return block


def fold(model: Llama, adapters: Adapters) -> None:
    """Put the adapters into a stacked model's weights for good, one target at a time."""
    for target in adapters.A:
        one = Adapters({target: adapters.A[target]}, {target: adapters.B[target]}, adapters.scale)
        model.blocks = jax.jit(merge, donate_argnums=0)(model.blocks, one)


def save(adapters: Adapters, settings: LoRA, base: str, out: Path, write: bool = True) -> None:
    """Write PEFT's layout, which PeftModel.from_pretrained opens; it appears in one rename.

    On several hosts all call it, and one has `write`.
    """
    tensors = {}
    for target in adapters.A:
        template = next(hf for hf, ours in LLAMA.items() if ours == WEIGHTS[target][0])
        template = template.removesuffix(".weight")
        A, B = (_on_host(part[target]) for part in (adapters.A, adapters.B))
        A = A.reshape(len(A), settings.rank, -1)
        for layer in range(len(A)):
            key = f"base_model.model.{template.format(layer)}"
            tensors[f"{key}.lora_A.weight"] = A[layer]
            tensors[f"{key}.lora_B.weight"] = B[layer].reshape(-1, settings.rank)
    if not write:
        return
    about = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base},
        **{"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": 0.0, "bias": "none"},
        **{"target_modules": list(settings.targets), "inference_mode": True},
        **{"fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None},
    }
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temp:
        folder = Path(temp) / "adapter"
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n")
        if out.exists():
            os.rename(out, Path(temp) / "old")
        os.rename(folder, out)


def _on_host(value: jax.Array) -> np.ndarray:
    if not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)
