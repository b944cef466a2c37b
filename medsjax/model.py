"""Llama in Flax NNX: rope, RMSNorm, attention, gated MLP; layers stacked and scanned.

B batch, T tokens, D model, F ffn, N query heads, K kv heads, H head dim, V vocab, L layers.
Weights lie as Hugging Face stores them (outputs first), so loading and saving are reshapes.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from medsjax.attention import attend
from medsjax.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's frequency scaling, or plain linear where only `factor` is set."""

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Shapes and numerics of one checkpoint. No defaults: all come from its config.json."""

    V: int
    D: int
    F: int
    L: int
    N: int
    K: int
    H: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    tied: bool


def rope_frequencies(dims: Dims) -> jax.Array:
    """Inverse frequencies float32[H/2], radians a position, scaled as the checkpoint says."""
    freq_h = 1.0 / dims.rope_theta ** (jnp.arange(0, dims.H, 2, dtype=jnp.float32) / dims.H)
    s = dims.rope_scaling
    if s is None:
        return freq_h
    if s.low_freq_factor is None:
        return freq_h / s.factor
    # Llama 3.1: long waves are slowed by `factor`, short ones kept, those between are blended.
    turns_h = s.original_length * freq_h / (2 * math.pi)
    keep_h = (turns_h - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    keep_h = jnp.clip(keep_h, 0.0, 1.0)
    return keep_h * freq_h + (1 - keep_h) * freq_h / s.factor


def rope_angles(positions_BT: jax.Array, dims: Dims) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32[B, T, 1, H/2]."""
    angles = positions_BT.astype(jnp.float32)[..., None, None] * rope_frequencies(dims)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary embedding in float32; the pairs are (i, i + H/2), as in Hugging Face's layout."""
    (cos, sin), dtype = rope, x_BTNH.dtype
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(dtype)


def rms_norm(x_BTD: jax.Array, scale_D: jax.Array, *, eps: float) -> jax.Array:
    """RMSNorm; the mean square and the scaling are float32."""
    x = x_BTD.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return (x * scale_D.astype(jnp.float32)).astype(x_BTD.dtype)


class Block(nnx.Module):
    """One layer. Outside the scan each parameter has a leading L, which its name leaves out."""

    def __init__(self, dims: Dims, normal, ones):
        D, F, N, K, H = dims.D, dims.F, dims.N, dims.K, dims.H
        self.dims = dims
        self.q_NHD = normal((N, H, D), P(None, "tensor", None, "fsdp"), fan_in=D)
        self.k_KHD = normal((K, H, D), P(None, "tensor", None, "fsdp"), fan_in=D)
        self.v_KHD = normal((K, H, D), P(None, "tensor", None, "fsdp"), fan_in=D)
        self.o_DNH = normal((D, N, H), P(None, "fsdp", "tensor", None), fan_in=N * H)
        self.gate_FD = normal((F, D), P(None, "tensor", "fsdp"), fan_in=D)
        self.up_FD = normal((F, D), P(None, "tensor", "fsdp"), fan_in=D)
        self.down_DF = normal((D, F), P(None, "fsdp", "tensor"), fan_in=F)
        self.attn_norm_D = ones((D,), P(None, None))
        self.mlp_norm_D = ones((D,), P(None, None))

    def product(self, equation: str, x: jax.Array, name: str) -> jax.Array:
        """x times the weight of that name, in x's dtype; LoRA's layers add to it."""
        return jnp.einsum(equation, x, getattr(self, name)[...].astype(x.dtype))

    def qkv(self, x_BTD: jax.Array, rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Normalised, projected and rotated: q [B,T,N,H], k and v [B,T,K,H]."""
        h_BTD = rms_norm(x_BTD, self.attn_norm_D[...], eps=self.dims.norm_eps)
        q = self.product("BTD,NHD->BTNH", h_BTD, "q_NHD")
        k = self.product("BTD,KHD->BTKH", h_BTD, "k_KHD")
        v = self.product("BTD,KHD->BTKH", h_BTD, "v_KHD")
        return tuple(checkpoint_name(a, "qkv") for a in (rotate(q, rope), rotate(k, rope), v))

    def finish(self, x_BTD: jax.Array, attended_BTNH: jax.Array) -> jax.Array:
        """The residual stream after attention's output projection and the gated MLP."""
        x_BTD += self.product("BTNH,DNH->BTD", attended_BTNH, "o_DNH")
        h_BTD = rms_norm(x_BTD, self.mlp_norm_D[...], eps=self.dims.norm_eps)
        gate_BTF = self.product("BTD,FD->BTF", h_BTD, "gate_FD")
        up_BTF = self.product("BTD,FD->BTF", h_BTD, "up_FD")
        h_BTF = jax.nn.silu(gate_BTF) * up_BTF
        return x_BTD + self.product("BTF,DF->BTD", h_BTF, "down_DF")

    def __call__(self, x_BTD: jax.Array, rope, segments_BS: jax.Array, past=None):
        """The layer over whole rows; also gives k and v, which prefill keeps.

        `past`: k and v [B, P, K, H] of P tokens before these, S = P + T.
        """
        q, k, v = self.qkv(constrain(x_BTD, "fsdp", None, None), rope)
        if past is not None:
            k, v = (jnp.concatenate(pair, axis=1) for pair in zip(past, (k, v), strict=True))
        return self.finish(x_BTD, attend(q, k, v, segments_BS)), (k, v)


class Llama(nnx.Module):
    """Llama 2, 3, 3.1, 3.2 and their fine-tunes.

    `compute_dtype` is the dtype of activations and matrix products; parameters keep their own.
    `config_json` is the checkpoint's config.json, kept for export.
    """

    def __init__(self, dims: Dims, *, key=None, param_dtype, compute_dtype, config_json: str = ""):
        key = jax.random.key(0) if key is None else key
        keys = iter(jax.random.split(key, 16))

        def normal(shape, spec, fan_in, stacked=True):
            shape = (dims.L, *shape) if stacked else shape
            value = jax.random.normal(next(keys), shape, param_dtype) * fan_in**-0.5
            return nnx.Param(value.astype(param_dtype), out_sharding=spec)

        def ones(shape, spec, stacked=True):
            shape = (dims.L, *shape) if stacked else shape
            return nnx.Param(jnp.ones(shape, param_dtype), out_sharding=spec)

        V, D = dims.V, dims.D
        self.dims = dims
        self.compute_dtype = jnp.dtype(compute_dtype).name
        self.config_json = config_json
        self.embed_VD = normal((V, D), P("tensor", "fsdp"), fan_in=D, stacked=False)
        self.blocks = Block(dims, normal, ones)
        self.norm_D = ones((D,), P(None), stacked=False)
        if not dims.tied:
            self.unembed_VD = normal((V, D), P("tensor", "fsdp"), fan_in=D, stacked=False)

    @property
    def output_VD(self) -> jax.Array:
        """The output matrix: the embedding itself where the checkpoint ties them."""
        return (self.embed_VD if self.dims.tied else self.unembed_VD)[...]

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """Token ids -> the residual stream [B, T, D]."""
        return self.embed_VD[...][tokens_BT].astype(self.compute_dtype)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """The final hidden state (normalised) -> float32 logits [B, T, V]."""
        output_VD = self.output_VD.astype(x_BTD.dtype)
        return jnp.einsum("BTD,VD->BTV", x_BTD, output_VD, preferred_element_type=jnp.float32)

    def hidden(self, tokens_BT, positions_BT, segments_BT, *, remat="none") -> jax.Array:
        """Final normalised hidden states [B, T, D].

        `remat`: "full" keeps only each layer's input and recomputes the rest backward;
        "qkv_context" also keeps q, k, v and what attention gives (not on a GPU); "none" keeps all.
        """
        rope = rope_angles(positions_BT, self.dims)

        def layer(x_BTD, block):
            return block(x_BTD, rope, segments_BT)[0], None

        if remat != "none":
            kept = ("qkv", "context") if remat == "qkv_context" else ()
            policy = jax.checkpoint_policies.save_only_these_names(*kept)
            layer = jax.checkpoint(layer, prevent_cse=False, policy=policy)
        x_BTD = constrain(self.embed(tokens_BT), "fsdp", None, None)
        if isinstance(self.blocks, Block):
            x_BTD, _ = jax.lax.scan(layer, x_BTD, self.blocks)
        else:
            for block in self.blocks:
                x_BTD, _ = layer(x_BTD, block)
        return rms_norm(x_BTD, self.norm_D[...], eps=self.dims.norm_eps)

    def unstack(self) -> None:
        """Hold the layers one by one instead of stacked, in place: the form that sampling wants.

        Parameter by parameter, so that the weights are never held twice. All else works as before;
        only training is slower to compile.
        """
        if not isinstance(self.blocks, Block):
            return
        leaves, form = jax.tree.flatten(self.blocks)
        self.blocks = nnx.List([])  # the leaves are now held by the list alone
        layers = [_layers(leaves.pop(0)) for _ in range(len(leaves))]
        self.blocks = nnx.List(
            jax.tree.unflatten(form, layer) for layer in zip(*layers, strict=True)
        )

    def __call__(self, tokens_BT, positions_BT=None, segments_BT=None) -> jax.Array:
        """float32 logits [B, T, V]. Segments: 0 = padding; positions restart in each."""
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        if segments_BT is None:
            segments_BT = jnp.ones_like(tokens_BT)
        return self.unembed(self.hidden(tokens_BT, positions_BT, segments_BT))


def _layers(stacked: jax.Array) -> list[jax.Array]:
    """A parameter's layers, each split over the mesh as all of them were."""
    sharding = stacked.sharding
    own = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
    return jax.jit(list, out_shardings=[own] * len(stacked))(stacked)
