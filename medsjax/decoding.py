"""Jitted prefill and decode over a KV cache, a list per layer of (k, v) [B, K, S, H].

B batch, P shared tokens, T prompt tokens after them, S cache length, N query heads, K kv heads, G
query heads a kv head, H head dim, V vocab. On a mesh, rows lie over `fsdp`, heads over `tensor`.
All take arrays or their shapes, so that they can be compiled for machines that are not here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from medsjax.model import Block, Llama, rms_norm, rope_angles
from medsjax.sharding import constrain

CACHE = ("fsdp", "tensor", None, None)  # how it lies on the mesh


def grow(logits_BV, cache, keep, S: int):
    """The rows `keep` of a cache, with room for S tokens.

    Layer by layer, so that no more than one is in memory twice.
    """
    for i in range(len(cache)):
        cache[i] = grow_layer(cache[i], keep, S)
    return _take(logits_BV, keep), cache


@partial(jax.jit, static_argnums=2)
def grow_layer(kv, keep, S: int):
    def longer(a_BKSH):
        room = ((0, 0), (0, 0), (0, S - a_BKSH.shape[2]), (0, 0))
        return constrain(jnp.pad(a_BKSH[keep], room), *CACHE)

    return jax.tree.map(longer, kv)


@jax.jit
def _take(logits_BV, keep):
    return logits_BV[keep]


@jax.jit
def unstacked(model: Llama) -> list[Block]:
    return [jax.tree.map(lambda a, i=i: a[i], model.blocks) for i in range(model.dims.L)]


def prefix_kv(model, blocks, prefix: tuple[int, ...]):
    """Each layer's (k, v) [1, K, P, H] of the shared tokens."""
    tokens_1P = np.array([prefix], np.int32)
    x_BTD, rope, segments_BS = _embed(model, tokens_1P, np.zeros(1, np.int32), 0)
    kv = []
    for block in blocks:
        x_BTD, its = _layer(block, x_BTD, rope, segments_BS, None, len(prefix))
        kv.append(its)
    return kv


def prefill(model, blocks, past, tokens_BT, starts_B, S: int):
    """Logits of the last prompt token [B, V], and each layer's (k, v) [B, K, S, H].

    Layer by layer: one is compiled, and what the others need is never in memory.
    """
    x_BTD, rope, segments_BS = _embed(
        model, tokens_BT, starts_B, past[0][0].shape[2] if past else 0
    )
    cache = []
    for i, block in enumerate(blocks):
        x_BTD, kv = _layer(block, x_BTD, rope, segments_BS, past and past[i], S)
        cache.append(kv)
    return _last_logits(model, x_BTD), cache


@partial(jax.jit, static_argnums=3)
def _embed(model, tokens_BT, starts_B, P: int):
    """Into the first layer: x [B, T, D], rope, segments [B, P + T]."""
    columns_BT = jnp.arange(tokens_BT.shape[1]) - starts_B[:, None]
    segments_BS = jnp.pad((columns_BT >= 0).astype(jnp.int32), ((0, 0), (P, 0)), constant_values=1)
    rope = rope_angles(jnp.maximum(columns_BT, 0) + P, model.dims)
    return constrain(model.embed(tokens_BT), "fsdp", None, None), rope, segments_BS


@partial(jax.jit, static_argnums=5, donate_argnums=1)
def _layer(block, x_BTD, rope, segments_BS, past, S: int):
    """x after a layer, and its (k, v) [B, K, S, H], what it was given `past` first."""
    if past is not None:
        shape = (len(x_BTD), *past[0].shape[1:])
        past = [jnp.broadcast_to(a, shape).swapaxes(1, 2) for a in past]
    x_BTD, kv = block(x_BTD, rope, segments_BS, past)
    room = ((0, 0), (0, 0), (0, S - kv[0].shape[1]), (0, 0))
    return x_BTD, tuple(constrain(jnp.pad(a.swapaxes(1, 2), room), *CACHE) for a in kv)


@jax.jit
def _last_logits(model, x_BTD):
    x_BTD = rms_norm(x_BTD[:, -1:], model.norm_D[...], eps=model.dims.norm_eps)
    return model.unembed(x_BTD)[:, 0]


@partial(jax.jit, static_argnames=("greedy", "steps"), donate_argnums=2)
def decode(model, blocks, state, columns, rows, stops, settings, *, greedy, steps):
    """Up to `steps` tokens a row: (ids int32[B, steps], -1 from a row's stop id or limit on, and
    the state after them); ends when all rows have.

    `state`: (logits [B, V] of the next token, whether a row has ended [B], cache). `columns`: those
    before the first are shared, the second is the first new token's; the third is how many are
    there. `rows`: (where a row's own columns begin [B], limits [B], prompt numbers [B]).
    """
    (shared, first, begin), (starts_B, limits_B, numbers_B) = columns, rows
    logits_BV, done_B, cache = state

    def choose(logits_BV, step):
        if greedy:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return _sample(logits_BV, numbers_B, step, *settings)

    def body(state):
        i, out_BT, logits_BV, done_B, cache = state
        token_B = choose(logits_BV, begin + i)
        done_B |= (token_B[:, None] == stops).any(-1) | (begin + i >= limits_B)
        out_BT = out_BT.at[:, i].set(jnp.where(done_B, -1, token_B))
        column = first + begin + i
        logits_BV, cache = _step(model, blocks, cache, token_B, column, shared, starts_B)
        return i + 1, out_BT, logits_BV, done_B, cache

    def unfinished(state):
        return (state[0] < steps) & ~state[3].all()

    out_BT = jnp.full((len(done_B), steps), -1, jnp.int32)
    state = (jnp.int32(0), out_BT, logits_BV, done_B, cache)
    return jax.lax.while_loop(unfinished, body, state)[1:]


def _step(model: Llama, blocks, cache, token_B, column, shared, starts_B):
    """One token a row through all layers: logits [B, V] and the cache with `column` written."""
    rope = rope_angles((column - starts_B + shared)[:, None], model.dims)
    x_BTD, grown = model.embed(token_B[:, None]), []
    S = cache[0][0].shape[2]
    columns_S = jnp.arange(S)
    own_BS = (columns_S >= starts_B[:, None]) & (columns_S <= column)
    seen_BS = own_BS | (columns_S < shared)
    for block, (k_BKSH, v_BKSH) in zip(blocks, cache, strict=True):
        q, k, v = block.qkv(x_BTD, rope)
        at = (0, 0, column, 0)
        k_BKSH = jax.lax.dynamic_update_slice(k_BKSH, k.swapaxes(1, 2), at)
        v_BKSH = jax.lax.dynamic_update_slice(v_BKSH, v.swapaxes(1, 2), at)
        x_BTD = block.finish(x_BTD, _attend_cache(q, k_BKSH, v_BKSH, seen_BS))
        grown.append((constrain(k_BKSH, *CACHE), constrain(v_BKSH, *CACHE)))
    x_BTD = rms_norm(x_BTD, model.norm_D[...], eps=model.dims.norm_eps)
    return model.unembed(x_BTD)[:, 0], grown


def _attend_cache(q_BTNH, k_BKSH, v_BKSH, seen_BS):
    """Attention of one query a row (T = 1) over its cache; scores and softmax in float32."""
    B, T, N, H = q_BTNH.shape
    q_BKGH = q_BTNH.reshape(B, k_BKSH.shape[1], -1, H) * jnp.asarray(H**-0.5, q_BTNH.dtype)
    scores = jnp.einsum("BKGH,BKSH->BKGS", q_BKGH, k_BKSH, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(seen_BS[:, None, None], scores, -1e30), axis=-1)
    out_BKGH = jnp.einsum("BKGS,BKSH->BKGH", weights.astype(v_BKSH.dtype), v_BKSH)
    return out_BKGH.reshape(B, T, N, H)


def _sample(logits_BV, numbers_B, step, temperature, top_p, seed):
    """Nucleus sampling: among the likeliest tokens whose mass first reaches top_p."""
    logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature
    ranked_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(ranked_BV, axis=-1)
    kept_BV = (jnp.cumsum(probs_BV, axis=-1) - probs_BV < top_p).at[:, 0].set(True)
    floor_B = jnp.min(jnp.where(kept_BV, ranked_BV, jnp.inf), axis=-1)
    logits_BV = jnp.where(logits_BV >= floor_B[:, None], logits_BV, -jnp.inf)
    key = jax.random.key(seed)
    keys_B = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, n), step))(numbers_B)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
