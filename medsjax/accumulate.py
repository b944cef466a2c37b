"""Gradients of a part of a batch, added to a running sum in place, layer by layer.

`jax.grad` makes a model's whole gradient and only then is it added to the sum: two buffers of the
parameters' size. Here the way back through the layers is a loop that adds each layer's gradient to
its slice of the sum as soon as it is there, so that one such buffer lives: what lets 8B in float32
with AdamW fit one H200.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from medsjax.loss import nll_sum
from medsjax.model import Llama, rms_norm, rope_angles
from medsjax.sharding import constrain


def add_gradients(model: Llama, total, grads: Llama, batch: dict) -> tuple[jax.Array, Llama]:
    """(total + summed NLL, grads + its gradients), equal to jax.grad's but for rounding.

    Of a layer's activations its input alone is kept, as with remat "full".
    """
    tokens_BT, segments_BT = batch["tokens_BT"], batch["segments_BT"]
    rope = rope_angles(batch["positions_BT"], model.dims)

    def layer(block, x_BTD):
        return block(x_BTD, rope, segments_BT)[0]

    def head(x_BTD, norm_D, output_VD):
        x_BTD = rms_norm(x_BTD, norm_D, eps=model.dims.norm_eps)
        return nll_sum(x_BTD, output_VD, batch["targets_BT"], batch["loss_mask_BT"])

    def forward(x_BTD, block):
        return layer(block, x_BTD), x_BTD

    def backward(i, carry):
        dx_BTD, sums = carry
        i = model.dims.L - 1 - i
        block = jax.tree.map(lambda a: a[i], model.blocks)
        d_block, dx_BTD = jax.vjp(layer, block, x_LBTD[i])[1](dx_BTD)
        return dx_BTD, jax.tree.map(lambda s, d: s.at[i].add(d), sums, d_block)

    x_BTD = constrain(model.embed(tokens_BT), "fsdp", None, None)
    x_BTD, x_LBTD = jax.lax.scan(forward, x_BTD, model.blocks)
    nll, head_back = jax.vjp(head, x_BTD, model.norm_D[...], model.output_VD)
    dx_BTD, d_norm_D, d_output_VD = head_back(jnp.ones_like(nll))
    dx_BTD, blocks = jax.lax.fori_loop(0, model.dims.L, backward, (dx_BTD, grads.blocks))

    sums = nnx.clone(grads)
    sums.blocks = blocks
    sums.norm_D[...] += d_norm_D
    output = sums.embed_VD if model.dims.tied else sums.unembed_VD
    output[...] += d_output_VD
    sums.embed_VD[...] = sums.embed_VD[...].at[tokens_BT].add(dx_BTD.astype(jnp.float32))
    return total + nll, sums
