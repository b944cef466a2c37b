"""The bundled sample: what the generator writes is what is committed, and it is a fair test."""

import json
from collections import Counter

import pytest

from data.prompts import official
from data.sample import generate, tokenizer_files
from data.sample.headers import HEADERS
from data.sample.lexicon import CONDITIONS, DIAGNOSES
from eval.tasks import TASKS
from medsjax.tokenizer import Tokenizer

KEYS = [
    *("Contributors", "Source", "URL", "Categories", "Reasoning", "Definition"),
    *("Input_language", "Output_language", "Instruction_language", "Domains"),
    *("Positive Examples", "Negative Examples", "Instances"),
]


def committed(split: str) -> dict[str, dict]:
    return {
        path.name.split("_")[0]: json.loads(path.read_text("utf-8"))
        for path in (generate.HERE / split).glob("*.json")
    }


TRAIN, TEST = committed("train"), committed("test")


def gold(item: dict) -> str:
    return item["output"] if isinstance(item["output"], str) else item["output"][0]


def inputs(task: dict) -> list[str]:
    return [item["input"] for item in task["Instances"]]


@pytest.fixture(scope="module")
def base() -> dict[str, dict]:
    return generate.base_files(seed=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(generate.HERE / "base")


def test_regeneration_gives_the_committed_bytes(tmp_path):
    generate.write(tmp_path, generate.sample_files())
    for split in ("train", "test"):
        written = {p.name: p.read_bytes() for p in (tmp_path / split).iterdir()}
        assert written == {p.name: p.read_bytes() for p in (generate.HERE / split).iterdir()}


def test_regeneration_gives_the_committed_tokenizer_and_settings(tmp_path, base):
    files = tokenizer_files.build(generate.sample_files(), base, generate.spans())
    generate.write(tmp_path, files)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (generate.HERE / "base" / path.name).read_bytes(), path.name


def test_schema():
    for task in [*TRAIN.values(), *TEST.values()]:
        assert list(task) == KEYS
        assert task["Source"] == ["medsjax sample"]
        assert len(task["Definition"]) == len(set(task["Definition"])) >= 2
        assert all(item["input"].strip() and gold(item) for item in task["Instances"])
    kinds = {type(task["Instances"][0]["output"]) for task in TEST.values()}
    assert kinds == {str, list}
    assert any(len(item["output"]) > 1 for item in TEST["task29"]["Instances"])


def test_breadth():
    assert len(TRAIN) >= 10
    assert set(TEST) - set(TRAIN) == {"task127"}  # as in MedS-Ins
    assert len({TASKS[task].category for task in TEST}) >= 8
    assert TEST["task129"]["Input_language"] == ["Spanish"]
    assert all(len(task["Instances"]) >= 50 for task in TEST.values())


def test_no_input_twice():
    for name, task in TEST.items():
        texts = inputs(task) + (inputs(TRAIN[name]) if name in TRAIN else [])
        assert len(texts) == len(set(texts)), name


def test_combinations_are_held_out():
    signs = sorted({s for c in DIAGNOSES for s in c.signs}, key=len, reverse=True)

    def named_signs(text: str) -> frozenset[str]:
        found = set()
        for sign in signs:  # longest first, so that a sign inside another one is not counted
            if sign in text:
                found.add(sign)
                text = text.replace(sign, "")
        return frozenset(found)

    pairs = [
        {named_signs(text.lower()) for text in inputs(split["task130"])} for split in (TRAIN, TEST)
    ]
    assert all(len(pair) == 2 for pair in pairs[0] | pairs[1])
    assert not pairs[0] & pairs[1]


def test_a_sign_and_a_drug_belong_to_one_condition():
    signs = [sign for condition in CONDITIONS for sign in condition.signs]
    assert len(signs) == len(set(signs))
    assert len({c.name for c in CONDITIONS}) == len({c.drug for c in CONDITIONS}) == len(CONDITIONS)


def test_copied_answers_stand_in_the_input():
    for name in ("task2", "task29", "task57", "task126", "task127", "task129"):
        for item in TEST[name]["Instances"]:
            for text in item["output"] if isinstance(item["output"], list) else [item["output"]]:
                if text in ("not found", "There is no related enetity."):
                    continue
                _, _, span = text.rpartition(": ")
                for part in span.rstrip(".").split(", "):
                    assert part in item["input"], item


def test_labels_are_the_benchmarks():
    prefix = {"task130": "The diagnosis result is ", "task131": "The treatment planning is: "}
    for name in ("task16", "task41", "task106", "task119", "task130", "task131"):
        for item in TEST[name]["Instances"] + TRAIN[name]["Instances"]:
            label = gold(item).removeprefix(prefix.get(name, "")).rstrip(".").lower()
            labels = label.split(", ") if name == "task106" else [label]
            assert set(labels) <= set(TASKS[name].labels)


def test_a_constant_answer_scores_low():
    shares = {}
    for name, task in TEST.items():
        answers = [gold(item) for item in task["Instances"]]
        if TASKS[name].kind == "choice":
            answers = [answer.split(": ")[-2][-1] for answer in answers]
        shares[name] = Counter(answers).most_common(1)[0][1] / len(answers)
    assert max(shares.values()) <= 0.5
    assert sum(shares.values()) / len(shares) < 0.3
    assert max(shares["task57"], shares["task129"]) < 0.3


def test_the_base_shows_no_test_input(base):
    pairs = [(i["input"], i["output"]) for task in base.values() for i in task["Instances"]]
    text = "\n".join(f"{a}\n{b}" for a, b in pairs)
    assert 30_000 < len(pairs) < 60_000
    assert len(base) >= 12
    assert not [test for task in TEST.values() for test in inputs(task) if test in text]
    assert not set(base) & {h.train for h in HEADERS.values()}


def test_what_shows_a_test_input_is_left_out():
    pairs = [("x", "y"), ("a b c", "y"), ("x", "see a b c")]
    assert generate._without(["a b c"], pairs) == [{"input": "x", "output": "y"}]


def test_base_text_follows_its_seed(monkeypatch):
    monkeypatch.setattr(generate, "N_BASE", 500)
    first, again, other = (generate.base_files(seed) for seed in (0, 0, 1))
    assert first == again != other


def test_tokenizer_is_llama_3_in_small(tokenizer):
    turns = [("system", "Say it."), ("user", "A <|eot_id|> b"), ("assistant", "fever")]
    ids, mask = tokenizer.encode_turns(turns)
    special = {token: tokenizer.codec.id(token) for token in tokenizer_files.SPECIAL}
    assert sorted(special.values()) == list(range(1019, 1024))
    assert tokenizer.vocab_size == tokenizer_files.VOCAB
    assert tokenizer.bos_id == ids[0] == special["<|begin_of_text|>"]
    assert tokenizer.stop_ids == (special["<|end_of_text|>"], special["<|eot_id|>"])
    assert list(ids).count(special["<|eot_id|>"]) == 3  # the one in the text stays text
    assert tokenizer.decode(ids[mask]) == "fever"


def test_chat_template_agrees_with_encode_turns(tokenizer):
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(str(generate.HERE / "base"))
    turns = [("system", " Say it. "), ("user", "3 mg?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    text = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = hf(text, add_special_tokens=False)["input_ids"]
    assert ids == list(tokenizer.encode_turns(turns)[0])


def test_prompts_with_three_shots_fit_a_row_of_512(tokenizer):
    for name, task in TEST.items():
        pool = TRAIN.get(name, task)["Instances"]
        shots = [(item["input"], gold(item)) for item in sorted(pool, key=str, reverse=True)[:3]]
        for item in task["Instances"]:
            turns = official(max(task["Definition"], key=len), shots, item["input"])
            ids, _ = tokenizer.encode_turns([*turns, ("assistant", gold(item))])
            assert len(ids) <= 480, name
