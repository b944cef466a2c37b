"""Prompts in, generated ids out: greedy, temperature, top-p; in batches of few compiled shapes.

B batch, P shared tokens, T prompt tokens after them, S cache length. What all prompts of a batch
begin with (the shots of a task) is computed once. What follows is padded on the left, so that all
rows of a batch write the same cache column. Lengths are rounded to few sizes. The cache is a list
per layer, [B, K, S, H]: the shared tokens, the padding, the rest of the prompt, the answer. It
grows CHUNK tokens at a time, when rows that have ended are left out.

On a mesh, rows lie over `fsdp`, heads, ffn and vocabulary over `tensor` (see sampling_mesh). Layers
are held one by one: `model.unstack()` before, or each call makes a copy of the stacked ones.
"""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from medsjax import decoding
from medsjax.model import Block, Llama
from medsjax.tokenizer import Tokenizer

CHUNK = 128  # new tokens for which a cache has room at a time
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
    limits = [max_new_tokens] * len(ids) if isinstance(max_new_tokens, Integral) else max_new_tokens
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
    alike. `mesh` None: the mesh the model lies on. Where a batch does not fit into memory, it and
    the following are halved. Raises ValueError for a prompt or a setting that makes no sense.
    """
    _check(len(prompts), max_new_tokens, temperature, top_p, seed)
    for i, prompt in enumerate(prompts):
        if not len(prompt) or not 0 <= min(prompt) <= max(prompt) < model.dims.V:
            raise ValueError(f"prompt {i}: needs at least one id, all in [0, {model.dims.V})")
    own = model.embed_VD[...].sharding.mesh
    mesh = mesh or own
    if mesh.devices.tolist() != own.devices.tolist():
        raise ValueError(f"mesh: {mesh} is not the model's, {own}; load the model there")
    prefixes = _common_prefixes(prompts, [0] * len(prompts) if groups is None else groups)
    order = sorted(
        range(len(prompts)),
        key=lambda i: (prefixes[i], -_size(max_new_tokens[i]), -len(prompts[i]), i),
    )
    stops = np.asarray(tokenizer.stop_ids, np.int32)
    greedy = bool(np.float32(temperature) < np.finfo(np.float32).tiny)
    settings = (np.float32(1.0 if greedy else temperature), np.float32(top_p), np.uint32(seed))
    with jax.set_mesh(mesh):  # not around the yield, where the caller's code runs
        blocks = (
            decoding.unstacked(model) if isinstance(model.blocks, Block) else list(model.blocks)
        )
    past: dict[tuple[int, ...], Any] = {}
    while order:
        prefix = prefixes[order[0]]
        chosen = [i for i in order[:batch_size] if prefixes[i] == prefix]
        batch = Batch.of(prefix, prompts, max_new_tokens, chosen, batch_size, mesh.shape["fsdp"])
        try:
            with jax.set_mesh(mesh):
                out = _answer(model, blocks, batch, past, stops, settings, greedy)
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


def _check(prompts: int, limits: Sequence[int], temperature, top_p, seed) -> None:
    if len(limits) != prompts:
        raise ValueError(f"max_new_tokens: {len(limits)} numbers for {prompts} prompts")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be 0 or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be above 0 and at most 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be in 0 to 2**32 - 1")


class Batch(NamedTuple):
    """Prompts side by side, and what they share."""

    prefix: tuple[int, ...]  # ids that all begin with; its length is 0 or a compiled size
    tokens_BT: np.ndarray  # the rest, ending at the last column
    starts_B: np.ndarray  # where each rest begins
    limits_B: np.ndarray  # new tokens
    numbers_B: np.ndarray  # the prompts' numbers
    multiple: int  # of rows, that a mesh wants

    @classmethod
    def of(cls, prefix, prompts, max_new_tokens, chosen: list[int], batch_size: int, multiple: int):
        """The prompts `chosen`, in a compiled number of rows that is a multiple of `multiple`."""
        rows = min(_size(len(chosen), 1), batch_size)
        rows += -rows % multiple
        rests = [prompts[i][len(prefix) :] for i in chosen]
        limits, numbers = np.zeros(rows, np.int32), np.zeros(rows, np.uint32)
        limits[: len(chosen)] = [max_new_tokens[i] for i in chosen]
        numbers[: len(chosen)] = chosen
        return cls(prefix, *_left_padded(rests, rows), limits, numbers, multiple)


SHORTEST_PREFIX = 256  # below it, sharing saves less than another compiled shape costs
ROUND = 256  # to whose multiples longer caches are rounded, for few shapes


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
        past[batch.prefix] = (
            decoding.prefix_kv(model, blocks, batch.prefix) if batch.prefix else None
        )
    new, P = _size(int(batch.limits_B.max())), len(batch.prefix)
    first = P + batch.tokens_BT.shape[1]  # column of the first new token
    S = _room(first + min(CHUNK, new))
    logits_BV, cache = decoding.prefill(
        model, blocks, past[batch.prefix], batch.tokens_BT, batch.starts_B, S
    )
    done_B, made = batch.limits_B <= 0, []
    place_B = np.arange(len(done_B))  # where in the arrays the batch's rows lie
    rows = (P + batch.starts_B, batch.limits_B, batch.numbers_B)
    for begin in range(0, new, CHUNK):
        if begin:
            keep, place_B = _still_going(done_B, place_B, batch.multiple)
            S, rows = _room(first + begin + CHUNK), tuple(a[keep] for a in rows)
            logits_BV, cache = decoding.grow(logits_BV, cache, keep, S)
            done_B = done_B[keep]
            done_B[np.arange(len(keep)) >= (place_B >= 0).sum()] = True  # what fills up
        columns = (np.int32(P), np.int32(first), np.int32(begin))
        state = (logits_BV, done_B, cache)
        steps = min(CHUNK, new - begin)
        out_BT, logits_BV, done, cache = decoding.decode(
            *(model, blocks, state, columns, rows, stops, settings), greedy=greedy, steps=steps
        )
        made.append(np.where((place_B >= 0)[:, None], np.asarray(out_BT)[place_B], -1))
        done_B = np.array(done)
        if done_B.all():
            break
    return np.concatenate(made, axis=1)


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


def _room(n: int) -> int:
    """The compiled length of a cache for n tokens."""
    return _size(n) if n <= ROUND else n + -n % ROUND


def _still_going(done_B, place_B, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows to keep, in a compiled number; where in them each of the batch's rows lies, or -1)."""
    going = np.flatnonzero(~done_B)
    rows = min(_size(len(going), 1), len(done_B))
    keep = np.resize(going, rows + -rows % multiple)
    at = np.full(len(done_B), -1)
    at[going] = np.arange(len(going))
    return keep, np.where(place_B >= 0, at[place_B], -1)
