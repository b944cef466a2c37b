"""Next-token loss over the answer tokens (the paper's equation 2), never holding all logits.

B batch, T tokens, D model, V vocab; n tokens of a chunk, v the rows of V that a device works on.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

CHUNK_TOKENS = 1024  # of a device's own at a time: few enough to stay in a CPU's cache
CHUNK_LOGITS = 2**26  # alive at a time on a device at most: 256 MiB in float32


@jax.custom_vjp
def nll_sum(x_BTD: jax.Array, output_VD: jax.Array, targets_BT: jax.Array, mask_BT: jax.Array):
    """Sum over masked positions of -log p(target | hidden state), a float32 scalar.

    The caller divides by the number of targets in the *global* batch. Logits are made once, in
    chunks of tokens: where a gradient is asked for, it is made from them in the forward pass,
    summed in float32. On a mesh, with rows over `fsdp` and the vocabulary over `tensor`, each
    device takes its own rows of the vocabulary and everybody's tokens, so that neither the output
    matrix nor its gradient is whole on any of several devices.
    """
    return _on_mesh(x_BTD, output_VD, targets_BT, mask_BT, gradient=False)[0]


def _forward(*args):
    total, *gradients = _on_mesh(*args, gradient=True)
    return total, gradients


def _backward(gradients, cotangent):
    return *(d * cotangent.astype(d.dtype) for d in gradients), None, None


nll_sum.defvjp(_forward, _backward)


def _on_mesh(x_BTD, output_VD, targets_BT, mask_BT, *, gradient: bool):
    """(sum,) or with `gradient` (sum, dx, d_output), in the dtypes of x and output."""
    args = x_BTD, output_VD, targets_BT, mask_BT.astype(jnp.float32)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _share(*args, gradient=gradient, fsdp=1, axes=())
    x, output, row = P("fsdp", None, None), P("tensor", "fsdp"), P("fsdp", None)
    return jax.shard_map(
        partial(_share, gradient=gradient, fsdp=mesh.shape["fsdp"], axes=("tensor", "fsdp")),
        in_specs=(x, output, row, row),
        out_specs=(P(), x, output) if gradient else (P(),),
        check_vma=False,  # the sums over devices are written out
    )(*args)


def _share(x_BTD, output_VD, targets_BT, mask_BT, *, gradient: bool, fsdp: int, axes: tuple):
    """A device's part: its tokens, in step with everybody's, and its rows of the vocabulary."""
    tokens, D = targets_BT.size, x_BTD.shape[-1]
    output_vD, ids_v = _own_rows(output_VD.astype(x_BTD.dtype), fsdp, axes)
    most = max(min(CHUNK_TOKENS, CHUNK_LOGITS // (fsdp * len(ids_v))), 1)
    chunks = -(-tokens // most)
    size = -(-tokens // chunks)

    def split(a):
        a = a.reshape(tokens, *a.shape[2:])
        a = jnp.pad(a, ((0, chunks * size - tokens), *[(0, 0)] * (a.ndim - 1)))
        return a.reshape(chunks, size, *a.shape[1:])

    def add(carry, own):
        total, d_output_vD = carry
        x_nD, targets_n, mask_n = (_gather(a, fsdp) for a in own)
        loss, d_logits_nv = _chunk(x_nD, output_vD, ids_v, targets_n, mask_n, axes)
        if not gradient:
            return (total + loss, None), None
        d_logits_nv = d_logits_nv.astype(x_nD.dtype)
        d_output_vD += _einsum("nv,nD->vD", d_logits_nv, x_nD)
        dx_nD = jax.lax.psum(_einsum("nv,vD->nD", d_logits_nv, output_vD), axes[:1])
        if fsdp > 1:
            dx_nD = jax.lax.psum_scatter(dx_nD, "fsdp", tiled=True)
        return (total + loss, d_output_vD), dx_nD.astype(x_nD.dtype)

    zeros = jnp.zeros(output_vD.shape, jnp.float32) if gradient else None
    own = tuple(map(split, (x_BTD, targets_BT, mask_BT)))
    (total, d_output_vD), dx = jax.lax.scan(add, (jnp.float32(0), zeros), own)
    if not gradient:
        return (total,)
    dx_BTD = dx.reshape(-1, D)[:tokens].reshape(x_BTD.shape)
    d_output_VD = _swap(d_output_vD.astype(output_VD.dtype), fsdp, 1, 0)[: len(output_VD)]
    return total, dx_BTD, d_output_VD


_einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _own_rows(output_VD, fsdp: int, axes: tuple):
    """Some columns of all rows -> all columns of some rows, and which ids these are (-1: none)."""
    V = len(output_VD)
    output_vD = _swap(jnp.pad(output_VD, ((0, -V % fsdp), (0, 0))), fsdp, 0, 1)
    tensor_index, fsdp_index = map(jax.lax.axis_index, axes) if axes else (0, 0)
    rows_v = jnp.arange(len(output_vD)) + fsdp_index * len(output_vD)
    return output_vD, jnp.where(rows_v < V, rows_v + tensor_index * V, -1)


def _swap(a, fsdp: int, split: int, concat: int):
    return jax.lax.all_to_all(a, "fsdp", split, concat, tiled=True) if fsdp > 1 else a


def _gather(a, fsdp: int):
    return jax.lax.all_gather(a, "fsdp", tiled=True) if fsdp > 1 else a


def _chunk(x_nD, output_vD, ids_v, targets_n, mask_n, axes: tuple):
    """(masked loss over the whole vocabulary, its gradient by these rows' logits), float32."""
    logits_nv = jnp.where(ids_v >= 0, _einsum("nD,vD->nv", x_nD, output_vD), -jnp.inf)
    top_n = jax.lax.pmax(logits_nv.max(-1), axes)
    exp_nv = jnp.exp(logits_nv - top_n[:, None])
    hit_nv = (ids_v == targets_n[:, None]) & (ids_v >= 0)
    picked_n = jnp.sum(jnp.where(hit_nv, logits_nv, 0), axis=-1)
    sum_n, picked_n = jax.lax.psum((exp_nv.sum(-1), picked_n), axes)
    nll_n = jnp.log(sum_n) + (top_n - picked_n)
    d_logits_nv = exp_nv * (mask_n / sum_n)[:, None] - hit_nv * mask_n[:, None]
    return jnp.sum(nll_n * mask_n), d_logits_nv
