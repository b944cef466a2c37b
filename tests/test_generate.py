"""The command: a file of prompts, a conversation, and each mistake as one line."""

import io
import json
import sys

import pytest

from medsjax import convert, generate, sampler
from medsjax.errors import UserError, run_main

NEW = 12
TURNS = [["user", "a"], ["assistant", "an answer"], ["user", "the user"]]
LINES = [
    {"prompt": "the answer is"},
    {"turns": TURNS, "id": "case-7"},
    {"text": "the answer is", "id": None},
    {"turns": [["system", "own"], *TURNS]},
]


@pytest.fixture
def run(tiny_folder, monkeypatch, capsys):
    """Run main with arguments and standard input; gives what it prints."""
    load = convert.load
    monkeypatch.setattr(convert, "load", lambda *a, **k: load(tiny_folder, dtype="float32"))

    def run(*args, stdin="", new=NEW):
        argv = ["generate", "--model", str(tiny_folder), "--max-new-tokens", str(new), *args]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        generate.main()
        return capsys.readouterr().out

    return run


def answer(loaded, turns) -> str:
    """What the sampler says to turns or to a text."""
    model, tokenizer = loaded
    ids = turns if isinstance(turns, str) else tokenizer.encode_turns(turns)[0].tolist()
    return sampler.generate(model, tokenizer, [ids], NEW)[0]


def test_a_text_file_has_one_users_turn_a_line(run, tiny_loaded, tmp_path):
    """Lines keep their order and numbers, whatever their length; empty ones are passed over."""
    path = tmp_path / "prompts.txt"
    texts = ["the answer", "", "an answer " * 9, "is <|eot_id|> text"]
    path.write_text("\n".join(texts) + "\n")
    rows = [json.loads(line) for line in run("--prompts", str(path)).splitlines()]
    assert [row["id"] for row in rows] == [1, 3, 4]
    wanted = [answer(tiny_loaded, [("user", t)]) for t in texts if t]
    assert [row["text"] for row in rows] == wanted and len(set(wanted)) == 3


@pytest.mark.parametrize("system", ["", "own"])
def test_a_jsonl_file_has_prompts_turns_or_plain_text(system, run, tiny_loaded, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    out = run("--prompts", str(path), "--system", system)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == [1, "case-7", None, 4]
    lead = [("system", system)] if system else []
    assert [row["text"] for row in rows] == [
        answer(tiny_loaded, [*lead, ("user", "the answer is")]),
        answer(tiny_loaded, [*lead, *TURNS]),
        answer(tiny_loaded, "the answer is"),
        answer(tiny_loaded, [("system", "own"), *TURNS]),
    ]


def test_sampling_settings_reach_the_sampler(run, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("the answer\n")
    hot = ("--prompts", str(path), "--temperature", "1")
    greedy, one, same, two = (run(*hot[:2]), *(run(*hot, "--seed", s) for s in "112"))
    assert one == same and len({greedy, one, two}) == 3
    assert run(*hot, "--top-p", "0.000001") == greedy


def test_a_conversation_remembers_and_ends_politely(run, tiny_loaded):
    out = run("--system", "own", stdin="the user\n\n  is an answer  \n")
    turns = [("system", "own"), ("user", "the user")]
    first = answer(tiny_loaded, turns).strip()
    second = answer(tiny_loaded, [*turns, ("assistant", first), ("user", "is an answer")]).strip()
    assert out == f"> {first}\n> > {second}\n> \n"


BAD = {
    "absent": (None, "not a readable UTF-8 file"),
    "not utf-8": (b"caf\xe9\n", "not a readable UTF-8 file"),
    "empty": (b"\n \n", "no prompts; write one a line"),
    "not json": (b'{"prompt": "a"}\nnonsense secret\n', "line 2: not JSON"),
    "a list": (b'["secret"]\n', "line 1: must be an object with one of"),
    "no prompt": (b'{"question": "secret"}\n', "line 1: must be an object with one of"),
    "two kinds": (b'{"prompt": "secret", "text": "a"}\n', "line 1: must be an object with one of"),
    "prompt a number": (b'{"prompt": 3}\n', 'line 1: "prompt" must be a text'),
    "empty text": (b'{"text": ""}\n', 'line 1: "text" must be a text, and not empty'),
    "half a surrogate pair": (b'{"prompt": "secret \\ud83d"}\n', "line 1: not JSON"),
    "no turns": (b'{"turns": []}\n', 'line 1: "turns" must be'),
    "unknown role": (b'{"turns": [["doctor", "secret"]]}\n', 'line 1: "turns" must be'),
    "turn of three": (b'{"turns": [["user", "secret", 1]]}\n', 'line 1: "turns" must be'),
    "turn a word": (b'{"turns": ["us"]}\n', 'line 1: "turns" must be'),
    "role a list": (b'{"turns": [[["user"], "secret"]]}\n', 'line 1: "turns" must be'),
    "ends with an answer": (
        b'{"turns": [["user", "a"], ["assistant", "secret"]]}\n',
        "line 1: the last turn is assistant's; it must be the user's",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_without_its_text(name, run, tmp_path):
    content, message = BAD[name]
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        run("--prompts", str(path))
    assert str(path) in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "10000000"),
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--seed", "-1"),
    ],
)
def test_settings_out_of_range_are_refused(args, run):
    with pytest.raises(UserError, match=f"{args[0]} .*must be"):
        run(*args)


def test_answers_come_in_order_whatever_finishes_first(tiny_loaded):
    """Batches that end last to first still give the prompts' order."""
    _, tokenizer = tiny_loaded

    def backwards(prompts, limits):
        assert limits == [5] * len(prompts)
        yield from reversed(list(enumerate(prompts)))

    prompts = [tokenizer.encode(t) for t in ("a", "an", "the")]
    assert list(generate.answer_all(backwards, tokenizer, prompts, 5)) == ["a", "an", "the"]


def test_the_command_itself(tiny_folder, tiny_loaded, tmp_path, monkeypatch, capsys):
    """It loads the folder onto all devices; a bad file ends it with one line and exit code 2."""
    path = tmp_path / "prompts.txt"
    path.write_text("the answer\n")
    more = ["--dtype", "float32", "--max-new-tokens", str(NEW), "--prompts", str(path)]
    monkeypatch.setattr(sys, "argv", ["generate", "--model", str(tiny_folder), *more])
    run_main(generate.main)
    expected = {"id": 1, "text": answer(tiny_loaded, [("user", "the answer")])}
    assert json.loads(capsys.readouterr().out) == expected
    path.write_text("")
    with pytest.raises(SystemExit) as caught:
        run_main(generate.main)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"error: {path}: no prompts; write one a line\n")
