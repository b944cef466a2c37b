"""data.prompts: the layouts to the byte, shots that are never the question, and what fits."""

import csv
import json
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from data.prompts import LAYOUTS, LEARN, SLACK, draw_shots, fit, number, official, paper
from medsjax import config
from medsjax.errors import UserError
from medsjax.tokenizer import Tokenizer

SHOTS = [("in 1", "out 1"), ("in 2 ", "out 2")]


class Example(NamedTuple):
    input: str
    outputs: tuple[str, ...] = ("a",)


class ByteTokenizer:
    """Llama 3's turns over bytes: ids below 256 are UTF-8, the four control tokens follow."""

    BOS, START, END, EOT = 256, 257, 258, 259
    fingerprint = "bytes"
    calls = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_turns(self, turns):
        self.calls += 1
        ids, mask = [self.BOS], [False]
        if turns[-1][0] != "assistant":
            turns = [*turns, ("assistant", None)]
        for role, text in turns:
            header = [self.START, *self.encode(role), self.END, *self.encode("\n\n")]
            body = [] if text is None else [*self.encode(text), self.EOT]
            ids += header + body
            mask += [False] * len(header) + [role == "assistant"] * len(body)
        return np.array(ids, np.int32), np.array(mask)

    def render(self, ids) -> str:
        names = {self.BOS: "<|begin_of_text|>", self.START: "<|start_header_id|>"}
        names |= {self.END: "<|end_header_id|>", self.EOT: "<|eot_id|>"}
        pieces = (names[i].encode() if i in names else bytes([i]) for i in ids.tolist())
        return b"".join(pieces).decode()


def test_official_layout():
    assert official("Do it. ", [], " q\n") == [("system", "Do it."), ("user", "q")]
    assert official("Do it.", SHOTS, "q") == [
        (
            "system",
            "Input:\nin 1\n\nOutput:\nout 1\n\n\nInput:\nin 2 \n\nOutput:\nout 2\n\n\nDo it."
            "Please learn from the few-shot cases to see what content you have to output.",
        ),
        ("user", "Input:\nq\nOutput:"),
    ]


def test_paper_layout():
    assert paper("Do it.", [], "q") == [("system", "Do it."), ("user", "Input: q")]
    assert paper("Do it.", SHOTS, "q") == [
        (
            "system",
            "Case1: Input: in 1, Output: out 1\nCase2: Input: in 2 , Output: out 2 Do it.\n"
            "Please learn from the few-shot cases to see what content you have to output.",
        ),
        ("user", "Input: q"),
    ]


def test_official_layout_is_that_of_300_published_prompts(realdata):
    """All bytes of each prompt; its texts are those of the recovered task files."""
    (path,) = (realdata / "official").glob("eval_results_Rationale*.csv")
    known = {}
    for file in (realdata / "official").glob("task5*.recovered.json"):
        task = json.loads(file.read_text(encoding="utf-8"))
        pairs = {(item["input"].strip(), item["output"].strip()) for item in task["Instances"]}
        known[file.name.split("_")[0]] = task["Definition"], pairs
    turn = r"<\|start_header_id\|>{}<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>"
    prompt = re.compile(turn.format("system") + turn.format("user"), re.DOTALL)
    shot = re.compile(r"Input:\n(.*?)\n\nOutput:\n(.*?)\n\n\n", re.DOTALL)
    learn = LEARN.replace("output", "ouput")
    tokenizer = Tokenizer.load(config.ROOT / "data/sample/base")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["task_id"] for row in rows) == dict.fromkeys(known, 50)
    for row in rows:
        (definition,), pairs = known[row["task_id"]]
        system, user = prompt.search(row["input"]).groups()
        shots = shot.findall(system)
        query = user.removeprefix("Input:\n").removesuffix("\nOutput:")
        assert len(shots) == 3 and pairs.issuperset((a.strip(), b.strip()) for a, b in shots)
        assert query.strip() in {given for given, _ in pairs}
        ids, _ = tokenizer.encode_turns(official(definition, shots, query))
        text = tokenizer.codec.fast.decode(ids.tolist(), skip_special_tokens=False)
        assert text.replace(LEARN, learn) == row["input"]


def test_a_draw_is_pinned():
    """The same shots in every release, process and Python: scores and lengths depend on it."""
    pool = [Example(str(i)) for i in range(1000)]
    assert number("task12", 0) == 2157607687568009165
    drawn = draw_shots(("task12", 0), pool, 3, "")
    assert list(drawn) == [134, 96, 984] and all(drawn[i] is pool[i] for i in drawn)


def test_shots_are_distinct_never_the_item_and_the_next_steps_in():
    pool = [Example(f"text {i % 40}") for i in range(50)]  # ten texts stand twice
    for seed in range(200):
        plain = list(draw_shots((seed, "t"), pool, 4, None))
        texts = [pool[i].input for i in plain]
        assert len(set(texts)) == 4
        for place, index in enumerate(plain[:3]):
            without = draw_shots((seed, "t"), pool, 3, pool[index].input)
            assert list(without) == plain[:place] + plain[place + 1 :]


def test_small_pools_give_what_they_have():
    pool = [Example(str(i)) for i in range(4)]
    for seed in range(50):
        assert sorted(draw_shots((seed,), pool, 3, "2")) == [0, 1, 3]
        assert sorted(draw_shots((seed,), pool, 9, "2")) == [0, 1, 3]
    assert draw_shots((0,), [], 3, "") == {}
    assert draw_shots((0,), pool, 0, "") == {}


def test_a_pool_of_copies_is_not_read_to_its_end():
    reads = Counter()

    class Copies:
        def __len__(self):
            return 10**6

        def __getitem__(self, i):
            reads["n"] += 1
            return Example("same")

    assert draw_shots((0,), Copies(), 3, "same") == {}
    assert reads["n"] < 100


def test_draws_are_even():
    pool = [Example(str(i)) for i in range(10)]
    counts = Counter(i for seed in range(3000) for i in draw_shots((seed,), pool, 1, ""))
    assert all(240 < counts[i] < 360 for i in range(10))  # 300 expected, sigma 16


DEFINITION = "Name the disease."
QUERY = "".join(chr(97 + i % 26) for i in range(400)) + " end"
LONG_SHOTS = [(f"shot {i} " + "x" * 50, "y" * 10) for i in range(3)]


def cases(seed: int = 0, n: int = 300):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        query = QUERY[: rng.integers(0, 404)]
        answer = "z" * rng.integers(0, 300) if rng.random() < 0.7 else None
        shots = LONG_SHOTS[: rng.integers(0, 4)]
        yield str(rng.choice(list(LAYOUTS))), shots, query, answer, int(rng.integers(60, 900))


def test_what_fits_is_untouched_and_encoded_once():
    for layout, shots, query, answer, _ in cases():
        tokenizer = ByteTokenizer()
        fitted = fit(tokenizer, LAYOUTS[layout], DEFINITION, shots, query, answer, 10_000)
        assert tokenizer.calls == 1
        turns = LAYOUTS[layout](DEFINITION, shots, query)
        turns += [] if answer is None else [("assistant", answer)]
        ids, mask = tokenizer.encode_turns(turns)
        assert np.array_equal(fitted.ids, ids) and np.array_equal(fitted.loss_mask, mask)
        assert not (fitted.dropped_shots or fitted.cut_chars or fitted.answer_cut)


def test_what_is_too_long_loses_shots_then_the_querys_beginning_then_the_answers_end():
    seen = Counter()
    for layout_name, shots, query, answer, budget in cases():
        layout, tokenizer = LAYOUTS[layout_name], ByteTokenizer()

        def encode(shots, query, layout=layout, tokenizer=tokenizer, answer=answer):
            turns = layout(DEFINITION, shots, query)
            turns += [] if answer is None else [("assistant", answer)]
            return tokenizer.encode_turns(turns)

        fitted = fit(tokenizer, layout, DEFINITION, shots, query, answer, budget)
        dropped, cut = fitted.dropped_shots, fitted.cut_chars
        assert len(fitted.ids) == len(fitted.loss_mask) <= budget
        ids, mask = encode(shots[dropped:], query[cut:])
        assert np.array_equal(fitted.ids, ids[:budget])
        assert np.array_equal(fitted.loss_mask, mask[:budget])
        if dropped:  # and not one more than needed
            assert len(encode(shots[dropped - 1 :], query)[0]) > budget
        if cut:
            assert dropped == len(shots) and len(encode([], query)[0]) > budget
        if cut and not fitted.answer_cut:
            assert len(fitted.ids) >= budget - SLACK or cut == len(query)
        assert fitted.answer_cut == (len(ids) > budget)
        if fitted.answer_cut:
            assert cut == len(query) and fitted.ids[-1] != ByteTokenizer.EOT
        elif answer is None:
            tail = "assistant<|end_header_id|>\n\n"
            assert tokenizer.render(fitted.ids).endswith(tail) and not fitted.loss_mask.any()
        else:
            assert fitted.ids[-1] == ByteTokenizer.EOT and fitted.loss_mask[-1]
        seen += Counter(shots=bool(dropped), query=bool(cut), answer=fitted.answer_cut)
    assert min(seen.values()) >= 10  # the cases reach every branch


def test_cutting_a_long_query_takes_few_encodings():
    rng = np.random.default_rng(0)
    dense = "".join(rng.choice(["病", "a"], 40_000, p=[0.1, 0.9]))
    for query in (dense, "病" * 5_000 + "a" * 20_000, "a" * 20_000 + "病" * 5_000):
        tokenizer = ByteTokenizer()
        fitted = fit(tokenizer, official, DEFINITION, LONG_SHOTS, query, "answer", 2048)
        assert 2048 - SLACK <= len(fitted.ids) <= 2048
        assert tokenizer.calls <= 25


def test_cutting_takes_few_encodings_where_tokens_are_spread_unevenly():
    class Skewed(ByteTokenizer):
        def encode(self, text):
            return super().encode(text.replace("W", "w" * 100))

    for query in ("W" * 3000 + "a" * 1900, "a" * 20_000 + "W" * 2000, "W" * 2000 + "a" * 20_000):
        tokenizer = Skewed()
        fitted = fit(tokenizer, official, DEFINITION, [], query, "answer", 2048)
        assert 2048 - 100 <= len(fitted.ids) <= 2048
        assert tokenizer.calls <= 40  # interpolation alone takes 239


def test_no_room_beside_the_definition_is_the_users_mistake():
    for answer in (None, "answer"):
        with pytest.raises(UserError, match="leave no room") as caught:
            fit(ByteTokenizer(), official, DEFINITION, [], "secret", answer, 40)
        assert "secret" not in str(caught.value) and DEFINITION not in str(caught.value)
