"""data.json_stream: what `json` reads, in little memory, or one line that says where it breaks."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import json_stream, task_file
from medsjax.errors import UserError
from tests.task_files import GOOD, INSTANCE, NAME, write


def texts(seed: int, n: int) -> list[str]:
    """Texts with quotes, controls, other scripts and characters outside the basic plane."""
    alphabet = [*'ab \\"/\t\n\r\0{}[]:,', "é", "病", "ж", "😀", "\u2028", "\ufeff", "\x7f"]
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(alphabet, rng.integers(0, 40))) for _ in range(n)]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_gives_what_json_gives(tmp_path, monkeypatch, ascii_only, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    words = texts(0, 60)
    instances = [{"id": f"i{k}", "input": words[k], "output": words[k : k + 3]} for k in range(50)]
    document = {
        "Definition": [*words[:3], "x"],
        "Domains": ["Medicine"],
        "Positive Examples": [{"input": "a", "output": "b", "explanation": {"deep": [1.5, None]}}],
        "Unknown": {"nested": [[{}], True], "Instances": [{"input": "no"}], "[": ["Instances"]},
        "Instances": instances,
    }
    path = write(tmp_path, json.dumps(document, ensure_ascii=ascii_only).encode())
    file = task_file.read(path)
    assert file.n == 50 and file.task == "task12"
    assert file.header == {k: document[k] for k in ("Definition", "Domains", "Positive Examples")}
    found = [{"id": i.id, "input": i.input, "output": list(i.outputs)} for i in file.instances()]
    assert found == instances


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


def test_a_long_file_may_hold_any_number_of_short_instances(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    monkeypatch.setattr(json_stream, "MAX_BYTES", 500)
    instances = [{"input": f"[{i}" * (i % 20), "output": ["a", "b"]} for i in range(200)]
    document = {"Definition": "a", "Instances": instances, "Domains": ["b"] * 9}
    for indent in (None, 1):
        path = write(tmp_path, json.dumps(document, indent=indent))
        assert task_file.read(path).n == 200
        assert task_file.read(path).header == {"Definition": "a", "Domains": ["b"] * 9}
    for change in (
        {"Instances": [*instances, {"input": "a" * 700, "output": "b"}]},
        {"Instances": [INSTANCE | {f"more {i}": [] for i in range(90)}]},
        {"Domains": ["b"] * 200},
        {"other": [[["b"]]] * 90},
    ):
        with pytest.raises(UserError, match="more than 0 MB stand"):
            task_file.read(write(tmp_path, document | change))


def test_errors_are_located_in_any_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
    for spaces in range(200):
        mark = b"\xef\xbb\xbf" * (spaces % 2)
        data = mark + b'{"Definition": ' + b" " * spaces + b"?}"
        with pytest.raises(UserError, match=f"error at byte {data.index(b'?')};"):
            task_file.read(write(tmp_path, data))


def test_half_characters_are_seen_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 64)
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


PIECES = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b",",
        b":",
        b"\\ud83d",
        b"\\ude00",
        b"\\\\",
        b'\\"',
        b"\0",
    ),
    *(b"\xef\xbb\xbf", b"\xe9", b"\xed\xa0\x80", b"NaN", b"Infinity", b"-1e999", b"[" * 40, b"\n"),
    *(b'"input": "x", ', b'"Instances": ', b'"Instances": [', b'"Instances.item": ', b'{"": {'),
)


texts_ = st.text(st.sampled_from('ab \\"/\n\0{}[]:,é病😀\ufeff'), max_size=9)
instances_ = st.fixed_dictionaries(
    {"input": texts_, "output": texts_ | st.lists(texts_, min_size=1, max_size=2)},
    optional={
        "id": st.none() | st.integers(-(10**18), 10**18) | texts_,
        "more": st.lists(st.floats(0, 9)),
    },
)
documents_ = st.fixed_dictionaries(
    {
        "Definition": texts_ | st.lists(texts_, min_size=1, max_size=3),
        "Instances": st.lists(instances_, min_size=1, max_size=5),
    },
    optional={"Domains": st.lists(texts_, max_size=2), "[Instances": st.lists(instances_)},
)
# Where and how the bytes are changed: how many go, what comes.
changes_ = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(PIECES) | st.just(b"")),
    max_size=2,
)
cuts_ = st.just(1.0) | st.floats(0, 1)


@given(documents_, st.booleans(), st.sampled_from((None, 1)), st.just([]) | changes_, cuts_)
@example({"Definition": "a", "Instances": [INSTANCE]}, True, None, [], 1.0)
@settings(max_examples=300, deadline=None)
def test_gives_what_json_gives_or_one_line(tmp_path_factory, document, ascii, indent, changes, cut):
    data = json.dumps(document, ensure_ascii=ascii, indent=indent).encode("utf-8")
    for place, gone, new in changes:
        at = round(place * len(data))
        data = data[:at] + new + data[at + gone :]
    data = data[: round(cut * len(data))]
    path = tmp_path_factory.getbasetemp() / NAME
    path.write_bytes(data)
    for chunk in (5, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_stream, "CHUNK", chunk)
            try:
                file = task_file.read(path)
                found = list(file.instances())
            except UserError as error:
                assert changes or cut < 1 or "stands earlier" in str(error)
                assert str(error).startswith(str(path)) and "\n" not in str(error)
                continue
        whole = json.loads(data.removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=unique)
        assert file.header == {k: v for k, v in whole.items() if k in task_file.HEADER}
        assert found == [
            (
                str(i["id"]) if i.get("id") not in (None, "") else f"task12-{ordinal}",
                i["input"],
                (i["output"],) if isinstance(i["output"], str) else tuple(i["output"]),
            )
            for ordinal, i in enumerate(whole["Instances"])
        ]
        assert len({instance.id for instance in found}) == len(found) > 0


def unique(pairs: list[tuple]) -> dict:
    """Keys that matter stand once: an instance's, and Instances."""
    keys = [key for key, _ in pairs]
    if "input" in keys or "Instances" in keys:
        assert len(set(keys)) == len(keys)
    return dict(pairs)


LARGE = """
import sys
from pathlib import Path
from data import task_file
from medsjax.errors import UserError
path = Path(sys.argv[1]) / "task12_large.json"
head, tail = b'{"Definition": ["a"], "Instances": [{"output": "a", "input": "', b'"}]}'
for megabytes, head, piece, tail in (
    (100, head, b"a", tail),
    (9, head, b"\\\\", tail),
    (9, head, "病😀".encode(), tail),
    (9, head + b'", "x": [', b"{},", b'1], "y": "' + tail),
    (9, b'{"Definition": [', b'"ab",', b'"a"], "Instances": []}'),
    (9, b'{"Instances": [{"', b'a":1,"', b'": 1}]}'),
    (9, b"[", b"{},", b"1]"),
):
    block = piece * (1_000_000 // len(piece))
    with open(path, "wb") as file:
        file.write(head)
        file.writelines(block for _ in range(megabytes))
        file.write(tail)
    try:
        task_file.read(path)
        sys.exit(f"read {piece}")
    except UserError as error:
        print(error)
peak = Path("/proc/self/status")  # getrusage would count the parent's memory before the start
print(int(peak.read_text().split("VmHWM:")[1].split()[0]) // 1024 if peak.exists() else 0)
"""


def test_a_hundred_megabytes_where_a_word_should_be_are_refused_in_little_memory(tmp_path):
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *messages, peak = done.stdout.splitlines()
    assert len(messages) == 7 and all("more than 4 MB" in line for line in messages), messages
    assert int(peak) < 300
