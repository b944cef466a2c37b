"""Jitted prefill and decode over a KV cache: greedy, temperature, top-p.

B batch, P shared tokens, T prompt tokens after them, S cache length, K kv heads, G query heads a kv
head, H head dim, L layers. What all prompts of a batch begin with (the shots of a task) is computed
once. What follows is padded on the left, so that all rows of a batch write the same cache column.
Lengths are rounded to few sizes, so few shapes are compiled. The cache is a list per layer,
[B, K, S, H]: the shared tokens, the padding, the rest of the prompt, the answer.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medsjax.model import Block, Llama, rms_norm, rope_angles
from medsjax.tokenizer import Tokenizer

SIZES = sorted({n * 2**k for n in (32, 48) for k in range(14)})  # 32, 48, 64, 96, 128, …


def generate(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    max_new_tokens: int | Sequence[int] = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> list[str]:
    """The continuation of each prompt, up to its first stop id.

    A str prompt is plain text (one begin-of-text where the tokenizer adds one, control tokens
    inert); a list of ids is taken exactly. `max_new_tokens`: one number, or one a prompt.
    """
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = [bos + tokenizer.encode(p) if isinstance(p, str) else list(p) for p in prompts]
    limits = [max_new_tokens] * len(ids) if isinstance(max_new_tokens, int) else max_new_tokens
    texts = [""] * len(ids)
    for i, new in stream(model, tokenizer, ids, limits, temperature, top_p, seed, mesh):
        texts[i] = tokenizer.decode(new)
    return texts


def stream(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    mesh: Mesh | None = None,
    batch_size: int = 64,
    groups: Sequence[Any] | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield (prompt number, generated ids without the stop id) as batches of like length finish.

    What a prompt gets does not depend on its batch: greedy is greedy, and a sampled token's key
    comes from (seed, prompt number, step). `groups`, one value a prompt, says which prompts begin
    alike. `mesh` None: the mesh the model lies on. Where a
    batch does not fit into memory, it and the following are halved.
    """
    for i, prompt in enumerate(prompts):
        if not len(prompt) or not 0 <= min(prompt) <= max(prompt) < model.dims.V:
            raise ValueError(f"prompt {i}: needs at least one id, all in [0, {model.dims.V})")
    mesh = mesh or model.embed_VD[...].sharding.mesh
    prefixes = _common_prefixes(prompts, groups or [0] * len(prompts))
    order = sorted(
        range(len(prompts)),
        key=lambda i: (prefixes[i], -_size(max_new_tokens[i]), -len(prompts[i]), i),
    )
    stops = np.asarray(tokenizer.stop_ids, np.int32)
    settings = (np.float32(temperature or 1.0), np.float32(top_p), np.uint32(seed))
    with jax.set_mesh(mesh):  # not around the yield, where the caller's code runs
        blocks = _unstack(model)
    past: dict[tuple[int, ...], Any] = {}
    while order:
        prefix = prefixes[order[0]]
        chosen = [i for i in order[:batch_size] if prefixes[i] == prefix]
        batch = Batch.of(prefix, prompts, max_new_tokens, chosen, batch_size, mesh.shape["fsdp"])
        try:
            with jax.set_mesh(mesh):
                out = _answer(model, blocks, batch, past, stops, settings, temperature == 0.0)
        except jax.errors.JaxRuntimeError as error:
            rows = len(batch.starts_B)
            if "RESOURCE_EXHAUSTED" not in str(error) or rows <= mesh.shape["fsdp"]:
                raise
            batch_size = rows // 2
            print(f"sampler: out of memory with {rows} rows; going on with {batch_size}")
            continue
        order = order[len(chosen) :]
        for i, ids in zip(chosen, out, strict=False):
            yield i, ids[: int(np.argmax(np.append(ids, -1) < 0))].tolist()


class Batch(NamedTuple):
    """Prompts side by side, and what they share."""

    prefix: tuple[int, ...]  # ids that all begin with; its length is 0 or a compiled size
    tokens_BT: np.ndarray  # the rest, ending at the last column
    starts_B: np.ndarray  # where each rest begins
    limits_B: np.ndarray  # new tokens
    numbers_B: np.ndarray  # the prompts' numbers

    @classmethod
    def of(cls, prefix, prompts, max_new_tokens, chosen: list[int], batch_size: int, multiple: int):
        """The prompts `chosen`, in a compiled number of rows that is a multiple of `multiple`."""
        rows = min(_size(len(chosen), 1), batch_size)
        rows += -rows % multiple
        rests = [prompts[i][len(prefix) :] for i in chosen]
        limits, numbers = np.zeros(rows, np.int32), np.zeros(rows, np.uint32)
        limits[: len(chosen)] = [max_new_tokens[i] for i in chosen]
        numbers[: len(chosen)] = chosen
        return cls(prefix, *_left_padded(rests, rows), limits, numbers)


SHORTEST_PREFIX = 256  # below it, sharing saves less than another compiled shape costs
ROUND = 256  # to whose multiples a cache with shared tokens is rounded, for fewer shapes


def _common_prefixes(prompts, groups: Sequence[Any]) -> list[tuple[int, ...]]:
    """For each prompt what all of its group begin with, cut to a compiled size; often nothing."""
    members: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    prefixes: list[tuple[int, ...]] = [()] * len(prompts)
    for its in members.values():
        ids = [tuple(map(int, prompts[i])) for i in its]
        first, last = min(ids), max(ids)  # in sorted order these share the least
        shared = 0
        while shared < min(map(len, ids)) - 1 and first[shared] == last[shared]:
            shared += 1  # never all of a prompt
        size = max((s for s in SIZES if SHORTEST_PREFIX <= s <= shared), default=0)
        for i in its if len(its) > 1 else ():
            prefixes[i] = first[:size]
    return prefixes


def _answer(model, blocks, batch: Batch, past: dict, stops, settings, greedy: bool):
    """Generated ids int32[B, new], -1 after the end. `past` keeps the last prefix's (k, v)."""
    if batch.prefix not in past:
        past.clear()
        past[batch.prefix] = None
        if batch.prefix:
            past[batch.prefix] = _prefix_kv(model, np.array([batch.prefix], np.int32))
    new = _size(int(batch.limits_B.max()))
    P = len(batch.prefix)
    first = P + batch.tokens_BT.shape[1]  # column of the first new token
    S = first + new
    logits, cache = _prefill(
        model, past[batch.prefix], batch.tokens_BT, batch.starts_B, S + (-S % ROUND if P else 0)
    )
    columns = (np.int32(P), P + batch.starts_B, np.int32(first))
    rows = (batch.limits_B, batch.numbers_B)
    out, _ = _decode(
        *(model, blocks, cache, logits, columns, rows, stops, settings), greedy=greedy, new=new
    )
    return np.asarray(out)


def _size(n: int, smallest: int = 32) -> int:
    """The compiled size that holds n."""
    return next(s for s in [smallest, *SIZES] if s >= max(n, smallest))


def _left_padded(prompts: list[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32[rows, T] ending at the last column, and where each begins; T is a compiled size."""
    T = _size(max(len(p) for p in prompts))
    tokens_BT, starts_B = np.zeros((rows, T), np.int32), np.full(rows, T - 1, np.int32)
    for b, prompt in enumerate(prompts):
        starts_B[b] = T - len(prompt)
        tokens_BT[b, starts_B[b] :] = prompt
    return tokens_BT, starts_B


@jax.jit
def _unstack(model: Llama) -> list[Block]:
    return [jax.tree.map(lambda a, i=i: a[i], model.blocks) for i in range(model.dims.L)]


@jax.jit
def _prefix_kv(model: Llama, tokens_1P):
    """(k, v) [L, 1, P, K, H] of the shared tokens."""
    positions = jnp.arange(tokens_1P.shape[1])[None]
    return model.hidden(tokens_1P, positions, jnp.ones_like(positions), keep_kv=True)[1]


@partial(jax.jit, static_argnums=4)
def _prefill(model: Llama, past, tokens_BT, starts_B, S: int):
    """Logits of the last prompt token [B, V], and each layer's (k, v) [B, K, S, H]."""
    B, T = tokens_BT.shape
    columns_BT = jnp.arange(T) - starts_B[:, None]
    segments_BS = (columns_BT >= 0).astype(jnp.int32)
    positions_BT = jnp.maximum(columns_BT, 0)
    if past is not None:
        P = past[0].shape[2]
        past = jax.tree.map(lambda a: jnp.broadcast_to(a, (a.shape[0], B, *a.shape[2:])), past)
        segments_BS = jnp.concatenate([jnp.ones((B, P), jnp.int32), segments_BS], axis=1)
        positions_BT += P
    x_BTD, (k, v) = model.hidden(tokens_BT, positions_BT, segments_BS, keep_kv=True, past=past)

    def grow(kv_BSKH):
        room = S - kv_BSKH.shape[1]
        return jnp.pad(kv_BSKH.swapaxes(1, 2), ((0, 0), (0, 0), (0, room), (0, 0)))

    cache = [(grow(k[i]), grow(v[i])) for i in range(model.dims.L)]
    return model.unembed(x_BTD[:, -1:])[:, 0], cache


@partial(jax.jit, static_argnames=("greedy", "new"), donate_argnums=2)
def _decode(model, blocks, cache, logits_BV, columns, rows, stops, settings, *, greedy, new):
    """Generated ids int32[B, new], -1 from a row's stop id or limit on; ends when all rows have.

    `columns`: those before the first are shared; a row's own begin at the second [B]; the third
    is the first new token's. `rows`: (limits, prompt numbers). The spent cache is returned too: a
    donated buffer needs an output to live in.
    """
    (shared, starts_B, first), (limits_B, numbers_B) = columns, rows
    B = logits_BV.shape[0]

    def choose(logits_BV, step):
        if greedy:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return _sample(logits_BV, numbers_B, step, *settings)

    def body(state):
        step, logits_BV, done_B, out_BT, cache = state
        token_B = choose(logits_BV, step)
        done_B |= (token_B[:, None] == stops).any(-1) | (step >= limits_B)
        out_BT = out_BT.at[:, step].set(jnp.where(done_B, -1, token_B))
        logits_BV, cache = _step(model, blocks, cache, token_B, first + step, shared, starts_B)
        return step + 1, logits_BV, done_B, out_BT, cache

    def unfinished(state):
        return (state[0] < new) & ~state[2].all()

    out_BT = jnp.full((B, new), -1, jnp.int32)
    state = (jnp.int32(0), logits_BV, limits_B <= 0, out_BT, cache)
    return jax.lax.while_loop(unfinished, body, state)[3:]


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
        grown.append((k_BKSH, v_BKSH))
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
    logits_BV = logits_BV / temperature
    ranked_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(ranked_BV, axis=-1)
    kept_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < top_p
    floor_B = jnp.min(jnp.where(kept_BV, ranked_BV, jnp.inf), axis=-1)
    logits_BV = jnp.where(logits_BV >= floor_B[:, None], logits_BV, -jnp.inf)
    key = jax.random.key(seed)
    keys_B = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, n), step))(numbers_B)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
