"""attend(q, k, v, segments): causal attention inside segments. One meaning, a kernel per platform.

B batch, T query, S key, K kv heads, G query heads a kv head, H head dim.
"""

import functools

import jax
import jax.numpy as jnp

BLOCK = 128  # queries at a time: keys after a block are never touched, scores stay small


def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, segments_BS: jax.Array):
    """Token t attends to s <= t of the same segment; returns [B, T, N, H] in q's dtype.

    The queries are those of the last T of the S tokens, T = S but where a prefix's keys stand
    before. Order in the row decides causality, not positions. Rows of padding (segment 0) attend
    to padding: finite, and never read. Scores and softmax are float32.
    """
    B, T, N, H = q_BTNH.shape
    q_BTKGH = q_BTNH.reshape(B, T, k_BSKH.shape[2], -1, H) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    before = k_BSKH.shape[1] - T
    blocks = [
        _attend_block(
            q_BTKGH[:, t : t + BLOCK],
            k_BSKH[:, : before + t + BLOCK],
            v_BSKH[:, : before + t + BLOCK],
            segments_BS[:, before + t : before + t + BLOCK],
            segments_BS[:, : before + t + BLOCK],
        )
        for t in range(0, T, BLOCK)
    ]
    return jnp.concatenate(blocks, axis=1).reshape(B, T, N, H)


@functools.partial(jax.checkpoint, prevent_cse=False)  # scores are recomputed, never stored
def _attend_block(q_BTKGH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS):
    T, S = q_BTKGH.shape[1], k_BSKH.shape[1]
    causal_TS = jnp.arange(S) <= jnp.arange(S - T, S)[:, None]
    mask_BTS = causal_TS & (q_segments_BT[:, :, None] == k_segments_BS[:, None, :])
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, -1e30)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH)
