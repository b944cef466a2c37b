"""data.task_file: reads what `json` reads, whatever a file's form, and names what is broken."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from data import task_file
from medsjax.errors import UserError

SECRET = "Mrs Example"  # stands for patients' text, which no error may quote
NAME = "task12_made_up_classification.json"
INSTANCE = {"input": SECRET, "output": ["yes", "no"]}
GOOD = {"Definition": [SECRET, "again"], "Instances": [INSTANCE, INSTANCE]}


def write(folder: Path, content, name: str = NAME) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read_all(path: Path) -> list[task_file.Instance]:
    return list(task_file.read(path).instances())


def texts(seed: int, n: int) -> list[str]:
    """Texts with quotes, controls, other scripts and characters outside the basic plane."""
    alphabet = [*'ab \\"/\t\n\r\0{}[]:,', "é", "病", "ж", "😀", "\u2028", "\ufeff", "\x7f"]
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(alphabet, rng.integers(0, 40))) for _ in range(n)]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_gives_what_json_gives(tmp_path, monkeypatch, ascii_only, chunk):
    monkeypatch.setattr(task_file, "CHUNK", chunk)
    words = texts(0, 60)
    instances = [{"id": f"i{k}", "input": words[k], "output": words[k : k + 3]} for k in range(50)]
    document = {
        "Definition": [*words[:3], "x"],
        "Domains": ["Medicine"],
        "Positive Examples": [{"input": "a", "output": "b", "explanation": {"deep": [1.5, None]}}],
        "Unknown": {"nested": [[{}], True]},
        "Instances": instances,
    }
    path = write(tmp_path, json.dumps(document, ensure_ascii=ascii_only).encode())
    file = task_file.read(path)
    assert file.n == 50 and file.task == "task12"
    assert file.header == {k: document[k] for k in ("Definition", "Domains", "Positive Examples")}
    found = [{"id": i.id, "input": i.input, "output": list(i.outputs)} for i in file.instances()]
    assert found == instances


def test_every_order_of_keys_and_every_container(tmp_path):
    wanted = read_all(write(tmp_path, GOOD))
    backwards = json.dumps(dict(reversed(GOOD.items())), indent=2).encode()
    for name, data in {
        "task12_b.json": backwards,
        "task12_c.jsonl": backwards,
        "task12_d.json": b"\xef\xbb\xbf" + backwards,
        "task12_e.json.gz": b"\xef\xbb\xbf" + backwards + b"\n",
    }.items():
        path = write(tmp_path, data, name)
        assert read_all(path) == wanted, name
        assert task_file.read(path).definitions == (SECRET, "again"), name


def test_strings_and_lists_mean_the_same_and_missing_ids_are_stable(tmp_path):
    instances = [
        {"input": "", "output": "a"},
        {"input": "x", "output": ["a"], "id": 7},
        {"input": "x", "output": "", "id": ""},
        {"input": "x", "output": ["a", "b"], "id": None},
    ]
    file = task_file.read(write(tmp_path, {"Definition": "do it", "Instances": instances}))
    assert file.definitions == ("do it",)
    assert [tuple(i) for i in file.instances()] == [
        ("task12-0", "", ("a",)),
        ("7", "x", ("a",)),
        ("task12-2", "x", ("",)),
        ("task12-3", "x", ("a", "b")),
    ]


def test_blank_rewrites_are_dropped_a_blank_original_is_kept(tmp_path):
    file = task_file.read(write(tmp_path, GOOD | {"Definition": ["", "one", " ", "two"]}))
    assert file.definitions == ("", "one", "two")


def broken(**change) -> dict:
    return {k: v for k, v in (GOOD | change).items() if v is not None}


def with_instance(value) -> dict:
    return GOOD | {"Instances": [INSTANCE, value]}


BROKEN = {
    "empty": (b"", "empty"),
    "blank": (b"  \n", "ends early, at byte 3"),
    "not JSON": (b'{"Definition": xyz}', "error at byte 15"),
    "lone comma": (b'{"Definition": "a",}', "error at byte 19"),
    "NaN": (b'{"Definition": NaN}', "error at byte 15"),
    "raw newline": (b'{"Definition": "a\n"}', "error at byte 17"),
    "latin-1": (
        b'{"Definition": "caf\xe9"}',
        "error at byte 20",
    ),  # where the character should go on
    "huge number": (b'{"id": ' + b"1" * 5000 + b"}", "error at byte"),
    "json lines": (b'{"a": 1}\n{"a": 2}', "more follows at byte 9"),
    "top level list": ([GOOD], "top level must be an object"),
    "top level text": (SECRET, "top level must be an object"),
    "no instances": (broken(Instances=None), "no Instances"),
    "instances null": (b'{"Definition": "a", "Instances": null}', "Instances is null"),
    "instances object": (broken(Instances={"a": INSTANCE}), "Instances is an object"),
    "instances text": (broken(Instances=SECRET), "Instances is a string"),
    "instances empty": (broken(Instances=[]), "Instances is empty"),
    "instances twice": (b'{"Instances": [1], "Instances": [2]}', "stands twice"),
    "no definition": (broken(Definition=None), "no Definition"),
    "definition empty": (broken(Definition=[]), "no Definition"),
    "definition number": (broken(Definition=[3]), "Definition must be"),
    "definition object": (broken(Definition={}), "Definition must be"),
    "not an object": (with_instance([SECRET]), "instance 1: it must be an object"),
    "input number": (with_instance({"input": 3, "output": "a"}), "instance 1: input"),
    "input missing": (with_instance({"output": SECRET}), "instance 1: input"),
    "output missing": (with_instance({"input": SECRET}), "instance 1: output"),
    "output empty": (with_instance({"input": "a", "output": []}), "instance 1: output"),
    "output object": (with_instance({"input": "a", "output": {}}), "instance 1: output"),
    "output numbers": (with_instance({"input": "a", "output": ["a", 1]}), "instance 1: output"),
    "id list": (with_instance(INSTANCE | {"id": ["a"]}), "instance 1: id"),
    "id true": (with_instance(INSTANCE | {"id": True}), "instance 1: id"),
    "id again": (with_instance(INSTANCE | {"id": "task12-0"}), "instance 1: its id"),
    "deep": (b'{"x": ' + b"[" * 200_000, "nest deeper"),
    "deep in Instances": (b'{"Instances": [' + b'{"a":' * 99, "nest deeper"),
    "half a pair": (b'{"Definition": "a\\ud83d b"}', "surrogate pair is escaped at byte 17"),
    "other half": (b'{"Definition": "a\\ude00 b"}', "is escaped at byte 17"),
    "after a written escape": (
        b'{"a": "\\\\ud83d\\ud83d."}',
        "surrogate pair is escaped at byte 14",
    ),
    "lone at the end": (b'{"Definition": "\\ud83d"}', "surrogate pair is escaped at byte 16"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_one_clear_line(tmp_path, case):
    content, expected = BROKEN[case]
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_all(path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(path)) and "\n" not in message
    assert SECRET not in message


def test_a_file_cut_anywhere_is_refused(tmp_path):
    data = json.dumps(GOOD).encode()
    for end in range(len(data)):
        with pytest.raises(UserError, match=r"ends early|is empty"):
            task_file.read(write(tmp_path, data[:end]))
    whole = gzip.compress(data)
    for end in range(4, len(whole), 5):
        path = tmp_path / "task12_cut.json.gz"
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="gzip file is damaged"):
            task_file.read(path)


def test_errors_are_located_in_any_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(task_file, "CHUNK", 64)
    for spaces in range(200):
        mark = b"\xef\xbb\xbf" * (spaces % 2)
        data = mark + b'{"Definition": ' + b" " * spaces + b"?}"
        with pytest.raises(UserError, match=f"error at byte {data.index(b'?')};"):
            task_file.read(write(tmp_path, data))


def test_half_characters_are_seen_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(task_file, "CHUNK", 64)
    for pad in range(64):
        text = "a" * pad
        whole = json.dumps(GOOD | {"Definition": text + "\\\\ud83d \\ud83d 😀" + text}).encode()
        assert b"\\ud83d\\ude00" in whole
        task_file.read(write(tmp_path, whole))
        for gone, left in ((b"\\ude00", b"\\ud83d"), (b"\\ud83d", b"\\ude00")):
            place = whole.rindex(gone)
            half = whole[:place] + whole[place + 6 :]
            with pytest.raises(UserError, match=f"byte {half.rindex(left)};"):
                task_file.read(write(tmp_path, half))


@pytest.mark.parametrize(
    "name", ["definitions.json", "task_x.json", "task12.txt", "mytask1_a.json"]
)
def test_the_task_comes_from_the_file_name(tmp_path, name):
    with pytest.raises(UserError, match="a task file is named"):
        task_file.read(write(tmp_path, GOOD, name))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        task_file.read(tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        task_file.read(tmp_path / NAME)


@pytest.mark.skipif("MEDSJAX_REALDATA" not in os.environ, reason="MEDSJAX_REALDATA is not set")
@pytest.mark.parametrize("folder", ["natural_instructions", "official"])
def test_real_files_give_what_json_gives(folder):
    paths = sorted((Path(os.environ["MEDSJAX_REALDATA"]) / folder).glob("task*.json"))
    assert len(paths) >= 6
    for path in paths:
        document = json.loads(path.read_bytes())
        file = task_file.read(path)
        found = list(file.instances())
        assert file.n == len(found) == len(document["Instances"])
        assert list(file.definitions) == document["Definition"]
        for instance, wanted in zip(found, document["Instances"], strict=True):
            output = wanted["output"]
            assert instance.input == wanted["input"]
            assert list(instance.outputs) == ([output] if isinstance(output, str) else output)
