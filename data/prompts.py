"""Definition, shots and query become turns; which shots are drawn; what goes when too long.

A layout is a function `(definition, shots, query) -> turns`. Turns are `[(role, text), ...]` and
end with the user's; shots are `[(input, output), ...]`, none of them for zero-shot. Training and
evaluation both call `draw_shots` and `fit`, so that they cannot differ.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from medsjax.errors import UserError

Turns = list[tuple[str, str]]
Shots = Sequence[tuple[str, str]]
Layout = Callable[[str, Shots, str], Turns]

LEARN = "Please learn from the few-shot cases to see what content you have to output."


def official(definition: str, shots: Shots, query: str) -> Turns:
    """The published evaluation's prompt, byte for byte; no space stands before `LEARN`.

    The scores in the paper's repository were made when `LEARN` still ended in "ouput".
    """
    if not shots:
        return [("system", definition.strip()), ("user", query.strip())]
    cases = "".join(f"Input:\n{given}\n\nOutput:\n{wanted}\n\n\n" for given, wanted in shots)
    system = f"{cases}{definition}{LEARN}"
    return [("system", system.strip()), ("user", f"Input:\n{query}\nOutput:")]


def paper(definition: str, shots: Shots, query: str) -> Turns:
    """The template printed in the paper (Methods, zero-shot and few-shot prompting).

    The paper prints one text; here its instruction is the system turn, its context the user's.
    """
    user = f"Input: {query}".strip()
    if not shots:
        return [("system", definition.strip()), ("user", user)]
    cases = "\n".join(
        f"Case{number}: Input: {given}, Output: {wanted}"
        for number, (given, wanted) in enumerate(shots, start=1)
    )
    return [("system", f"{cases} {definition}\n{LEARN}".strip()), ("user", user)]


LAYOUTS: dict[str, Layout] = {"official": official, "paper": paper}


class Example(Protocol):
    """What a pool of shots holds: `data.build.Record` is one."""

    input: str
    outputs: tuple[str, ...]


def number(*key: object) -> int:
    """An even 64-bit number that depends on the key alone: the same in any process, for good."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


CANDIDATES = 64  # a pool of nothing but copies of one input must not be read to its end


def draw_shots(
    key: Sequence[object], pool: Sequence[Any], k: int, exclude_input: str | None
) -> dict[int, Any]:
    """`k` shots of `pool`, a sequence of `Example`, by their index, in the order of the draw.

    Never one whose input text is `exclude_input` or that of an earlier shot: the next in the draw
    steps in. Fewer come back only where the pool has no more. The draw depends on `key` alone: `per
    item` passes (seed, example id), `fixed` (seed, task), so all items of a task share their shots.
    """
    chosen: dict[int, Any] = {}
    seen = {exclude_input}
    for tried, index in enumerate(_permutation(key, len(pool))):
        if len(chosen) == k or tried == k + CANDIDATES:
            break
        example = pool[index]
        if example.input not in seen:
            seen.add(example.input)
            chosen[index] = example
    return chosen


def _permutation(key: Sequence[object], n: int) -> Iterator[int]:
    """Each of 0..n-1 once, in an order drawn by `key`; costs only what is taken."""
    taken: set[int] = set()
    for step in range(n):
        index = number(*key, "shot", step) % n
        while index in taken:
            index = (index + 1) % n
        taken.add(index)
        yield index


@dataclass(frozen=True)
class Fitted:
    """An example as ids, and what it had to give up to fit."""

    ids: np.ndarray  # int32[n], n <= budget
    loss_mask: np.ndarray  # bool[n]: the tokens that are targets; all False without an answer
    dropped_shots: int = 0
    cut_chars: int = 0  # characters taken from the beginning of the query
    answer_cut: bool = False  # the answer lost its tail and its end-of-turn


def fit(
    tokenizer: Any,
    layout: Layout,
    definition: str,
    shots: Shots,
    query: str,
    answer: str | None,
    budget: int,
) -> Fitted:
    """The example in at most `budget` tokens; `answer=None` leaves an open assistant turn.

    Whole shots go first, from the front; then the query loses its beginning; then the answer its
    end. Begin-of-text, headers and definition stay: where they leave no room, `UserError`.
    """

    def encode(shots: Shots, query: str) -> tuple[np.ndarray, np.ndarray]:
        turns = layout(definition, shots, query)
        if answer is not None:
            turns = [*turns, ("assistant", answer.strip())]
        return tokenizer.encode_turns(turns)

    for dropped in range(len(shots) + 1):
        ids, mask = encode(shots[dropped:], query)
        if len(ids) <= budget:
            return Fitted(ids, mask, dropped)

    bare, bare_mask = encode((), "")
    if len(bare) <= budget:
        cut, ids, mask = _cut_query(lambda text: encode((), text), query, len(ids), budget)
        return Fitted(ids, mask, len(shots), cut)
    frame = int(np.argmax(bare_mask)) if bare_mask.any() else len(bare)
    if frame >= budget:
        raise UserError(
            f"the definition and the headers take {frame} of {budget} tokens and leave no room;"
            " raise the length"
        )
    return Fitted(bare[:budget], bare_mask[:budget], len(shots), len(query), answer_cut=True)


SLACK = 8  # tokens of room not worth encoding a long text once more


def _cut_query(
    encode: Callable[[str], tuple[np.ndarray, np.ndarray]], query: str, long: int, budget: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """How many characters `query` loses at its beginning, and the ids and mask of the rest.

    `long` is the number of tokens without a cut. Looks where the cut should lie if tokens were
    spread evenly, and halves now and then.
    """
    low, high = 0, len(query)  # a cut of `low` is too little, one of `high` fits
    ids, mask = encode("")
    step = 0
    while high - low > 1 and len(ids) < budget - SLACK:
        share = 0.5 if step % 3 == 2 else (long - budget + SLACK / 2) / (long - len(ids))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        tried = encode(query[middle:])
        if len(tried[0]) <= budget:
            high, (ids, mask) = middle, tried
        else:
            low, long = middle, len(tried[0])
        step += 1
    return high, ids, mask
