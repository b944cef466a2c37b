"""attend(q, k, v, segments): causal attention inside segments. One meaning, a kernel per platform.

B batch, T query, S key, K kv heads, G query heads a kv head, N query heads, H head dim, M segments.

`plain` is the reference: XLA alone, right everywhere, lean in memory. `splash` (TPU) is JAX's own
Pallas kernel, `cudnn` (NVIDIA) the flash attention of NVIDIA's library. Which one runs follows from
the mesh that is set (`jax.set_mesh`), not from this machine: a program for a TPU may be compiled
where there is none.
"""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from medsjax.errors import UserError
from medsjax.sharding import one_device

BLOCK = 128  # queries at a time; the kernels' lengths are rounded up to it
HEAD_DIMS = (64, 128)  # those of Llama 3, that the kernels are compiled and checked for
SEGMENTS = 16  # of a row that cuDNN takes one by one; its workspace grows with them
ONE_BY_ONE = ("H100", "H200", "H800", "H20", "GH200", "B100", "B200", "B300")  # Hopper and later


def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BS: jax.Array):
    """Token t attends to s <= t of the same segment; returns [B, T, N, H] in q's dtype.

    A segment's tokens stand together. The queries are those of the last T of the S tokens, T = S
    but where a prefix's keys stand before. Order in the row decides causality, not positions. Rows
    of padding (segment 0) attend to padding: finite, and never read. Scores and softmax are
    float32. What a rematerialisation policy keeps, lest it is computed again, is named "context";
    not on a GPU, where the way back also needs sums of cuDNN's that have no name.
    """
    kernel = _kernel(q_BTNH, k_BSKH)
    if kernel is None:
        return checkpoint_name(plain(q_BTNH, k_BSKH, v_BSKH, segments_BS), "context")
    rows = "fsdp" if q_BTNH.shape[0] % _mesh().shape["fsdp"] == 0 else None
    heads = P(rows, None, "tensor", None)
    return jax.shard_map(
        functools.partial(_padded, kernel),
        in_specs=(heads, heads, heads, P(rows, None)),
        out_specs=heads,
        check_vma=False,  # kernels do not say how their outputs vary
    )(q_BTNH, k_BSKH, v_BSKH, segments_BS)


def _mesh():
    return jax.sharding.get_abstract_mesh()


def _kernel(q_BTNH, k_BSKH):
    """The flash kernel for the mesh's devices and these shapes, or None for `plain`."""
    device, T, H = _mesh().abstract_device, q_BTNH.shape[1], q_BTNH.shape[3]
    if device is None or H not in HEAD_DIMS or T < BLOCK or k_BSKH.shape[1] != T:
        return None
    if device.platform == "tpu":
        return splash
    if "NVIDIA" in device.device_kind and q_BTNH.dtype.itemsize == 2:
        one_by_one = _fused() and any(name in device.device_kind for name in ONE_BY_ONE)
        return cudnn if one_by_one else masked_cudnn
    return None


def check(N: int, K: int, H: int, dtype: str) -> None:
    """Run this machine's kernel against `plain`, forward and backward; UserError if they differ.

    A kernel that is wrong about segments or grouped queries does not crash: it trains a bad model.
    """
    T = 4 * BLOCK - 28
    shapes = [jax.ShapeDtypeStruct((2, T, heads, H), jnp.dtype(dtype)) for heads in (N, K, K, N)]

    @functools.partial(jax.jit, static_argnums=0)
    def run(attention, segments_BT, q, k, v, d_out):
        out, back = jax.vjp(lambda *qkv: attention(*qkv, segments_BT), q, k, v)
        return out, *back(d_out)

    with jax.set_mesh(one_device()):
        if _kernel(*shapes[:2]) is None:
            return
        keys = jax.random.split(jax.random.key(0), 4)
        q, k, v, d_out = map(lambda key, a: jax.random.normal(key, a.shape, a.dtype), keys, shapes)
        for length in (100, 9):  # few segments in a row, and many
            segments_BT = jnp.stack([1 + jnp.arange(T) // n for n in (length, length + 7)])
            both = (run(f, segments_BT, q, k, v, d_out) for f in (attend, plain))
            for a, b in zip(*both, strict=True):
                a, b = a.astype(jnp.float32), b.astype(jnp.float32)
                error = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
                if not error < 0.03:
                    raise UserError(
                        f"{_mesh().abstract_device.device_kind}: its attention kernel in jax "
                        f"{jax.__version__} is {error:.0%} off the plain computation; take another "
                        "version of jax"
                    )


def _padded(kernel, q_BTNH, k_BTKH, v_BTKH, segments_BT):
    """The kernel over rows padded to a multiple of BLOCK; what is added comes last, unseen."""
    T = segments_BT.shape[1]

    def pad(a):
        return jnp.pad(a, ((0, 0), (0, -T % BLOCK), *[(0, 0)] * (a.ndim - 2)))

    return kernel(*map(pad, (q_BTNH, k_BTKH, v_BTKH, segments_BT)))[:, :T]


def splash(q_BTNH, k_BTKH, v_BTKH, segments_BT, *, interpret: bool = False):
    """TPU. T a multiple of BLOCK; `interpret` runs it on any platform, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    T, N, H = q_BTNH.shape[1:]
    size = next(n for n in (512, 256, 128) if T % n == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((T, T))] * N),
        block_sizes=splash_attention_kernel.BlockSizes(**{f"block_{n}": size for n in names}),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="context",
        interpret=interpret,
    )
    q_BNTH, k_BKTH, v_BKTH = (a.swapaxes(1, 2) for a in (q_BTNH, k_BTKH, v_BTKH))
    segments = splash_attention_kernel.SegmentIds(q=segments_BT, kv=segments_BT)
    q_BNTH = q_BNTH * jnp.asarray(H**-0.5, q_BNTH.dtype)
    return jax.vmap(kernel)(q_BNTH, k_BKTH, v_BKTH, segments).swapaxes(1, 2)


def masked_cudnn(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    """NVIDIA from Ampere on: flash attention under a mask [B, 1, T, T], by a public name of JAX."""
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return jax.nn.dot_product_attention(
        *(q_BTNH, k_BTKH, v_BTKH),
        mask=same_BTS[:, None],
        is_causal=True,
        implementation="cudnn",
    )


@jax.custom_vjp
def cudnn(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    """NVIDIA from Hopper on: segments one by one, nothing between them is computed.

    Rows of more than SEGMENTS segments, padding included, take `masked_cudnn`.
    """
    with _asking_no_gpu_here():
        return _cudnn(q_BTNH, k_BTKH, v_BTKH, segments_BT)


def _cudnn_forward(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    with _asking_no_gpu_here():
        return jax.vjp(lambda *qkv: _cudnn(*qkv, segments_BT), q_BTNH, k_BTKH, v_BTKH)


cudnn.defvjp(_cudnn_forward, lambda backward, d_out: (*backward(d_out), None))


def _cudnn(q_BTNH, k_BTKH, v_BTKH, segments_BT):
    lengths_BM, offsets_BM, fit = segment_table(segments_BT, SEGMENTS)

    def one_by_one(q_BTNH, k_BTKH, v_BTKH):
        if jax.__version_info__ < (0, 11, 1):  # where offsets of K and V are counted in q's strides
            G = q_BTNH.shape[2] // k_BTKH.shape[2]
            k_BTKH, v_BTKH = (jnp.repeat(a, G, axis=2) for a in (k_BTKH, v_BTKH))
        return _fused().dot_product_attention(
            *(q_BTNH, k_BTKH, v_BTKH),
            **{"q_seqlen": lengths_BM, "kv_seqlen": lengths_BM},
            **{"q_offsets": offsets_BM, "kv_offsets": offsets_BM},
            scale=q_BTNH.shape[3] ** -0.5,
            mask_type=_fused().MaskType.PADDING_CAUSAL,
        )

    def masked(*qkv):
        return masked_cudnn(*qkv, segments_BT)

    return jax.lax.cond(fit, one_by_one, masked, q_BTNH, k_BTKH, v_BTKH)


def segment_table(segments_BT, M: int):
    """Where the segments of each row lie: (lengths int32[B, M], starts int32[B, M + 1], fit).

    Padding is a segment too. -1 where there is none. `fit`: no row has more than M.
    """
    first_BT = jnp.diff(segments_BT, axis=1, prepend=-1) != 0
    which_BT = jnp.cumsum(first_BT, axis=1) - 1
    lengths_BM = (which_BT[:, None] == jnp.arange(M)[:, None]).sum(-1, dtype=jnp.int32)
    starts_BM = jnp.cumsum(lengths_BM, axis=1) - lengths_BM
    used_BM = lengths_BM > 0
    lengths_BM, starts_BM = (jnp.where(used_BM, a, -1) for a in (lengths_BM, starts_BM))
    return lengths_BM, jnp.pad(starts_BM, ((0, 0), (0, 1)), constant_values=-1), which_BT.max() < M


def _fused():
    """JAX's binding of cuDNN that takes segments; a private name: None where it is gone."""
    with contextlib.suppress(ImportError):
        from jax._src.cudnn import fused_attention_stablehlo as fused

        names = ("dot_product_attention", "MaskType", "check_compute_capability")
        return fused if all(hasattr(fused, name) for name in names) else None


def _asking_no_gpu_here():
    """The binding asks the GPU of this machine what it can do; the mesh's was asked already."""
    return mock.patch.object(_fused(), "check_compute_capability", lambda _: True)


def plain(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BS: jax.Array):
    """Any platform, any shape: queries in blocks, whose later keys are never touched."""
    B, T, N, H = q_BTNH.shape
    q_BTKGH = q_BTNH.reshape(B, T, k_BSKH.shape[2], -1, H) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    q_BKGTH, before = q_BTKGH.transpose(0, 2, 3, 1, 4), k_BSKH.shape[1] - T
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    blocks = []
    for t in range(0, T, BLOCK):
        queries, keys = slice(t, t + BLOCK), slice(before + t + BLOCK)
        blocks.append(
            _plain_block(
                *(q_BKGTH[:, :, :, queries], k_BKSH[:, :, keys], v_BKSH[:, :, keys]),
                *(segments_BS[:, before:][:, queries], segments_BS[:, keys]),
            )
        )
    return jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


@functools.partial(jax.checkpoint, prevent_cse=False)  # scores are recomputed, never stored
def _plain_block(q_BKGTH, k_BKSH, v_BKSH, q_segments_BT, k_segments_BS):
    """Queries and keys that end together. One matrix product a kv head, as CPUs like it: X = GT."""
    B, K, G, T, H = q_BKGTH.shape
    S = k_BKSH.shape[2]
    causal_TS = jnp.arange(S) <= jnp.arange(S - T, S)[:, None]
    mask_BTS = causal_TS & (q_segments_BT[:, :, None] == k_segments_BS[:, None, :])
    q_BKXH = q_BKGTH.reshape(B, K, G * T, H)
    scores = jnp.einsum("BKXH,BKSH->BKXS", q_BKXH, k_BKSH, preferred_element_type=jnp.float32)
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores.reshape(B, K, G, T, S), -1e30)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BKSH.dtype)
    weights_BKXS = weights_BKGTS.reshape(B, K, G * T, S)
    return jnp.einsum("BKXS,BKSH->BKXH", weights_BKXS, v_BKSH).reshape(q_BKGTH.shape)
