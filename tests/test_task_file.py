"""data.task_file: reads what `json` reads, whatever a file's form, and names what is broken."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from data import task_file
from medsjax.errors import UserError
from tests.task_files import GOOD, INSTANCE, NAME, SECRET, write


def read_all(path: Path) -> list[task_file.Instance]:
    return list(task_file.read(path).instances())


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
    "huge number": (b'{"id": ' + b"1" * 5000 + b"}", "before byte 5007 takes over 64 bits"),
    "json lines": (b'{"a": 1}\n{"a": 2}', "more follows at byte 9"),
    "top level list": ([GOOD], "top level must be an object"),
    "top level text": (json.dumps(SECRET), "top level must be an object"),
    "no instances": (broken(Instances=None), "no Instances"),
    "instances null": (b'{"Definition": "a", "Instances": null}', "Instances is null"),
    "instances object": (broken(Instances={"a": INSTANCE}), "Instances is an object"),
    "instances text": (broken(Instances=SECRET), "Instances is a string"),
    "instances empty": (broken(Instances=[]), "Instances is empty"),
    "instances twice": (
        json.dumps(GOOD).encode()[:-1] + b', "Instances": []}',
        "Instances stands twice",
    ),
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
    "input twice": (
        json.dumps(with_instance({"input": SECRET, "output": "b"})).replace(
            '"output": "b"', '"output": "b", "input": "c"'
        ),
        "instance 1: a key stands twice",
    ),
    "definition twice": (
        json.dumps(GOOD)[:-1] + ', "Definition": "c"}',
        "Definition stands twice",
    ),
    "a key like a path": (GOOD | {"Instances.item": INSTANCE}, "begins with 'Instances.'"),
    "instances inside Instances": (broken(Instances={"item": INSTANCE}), "is an object"),
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


def test_bad_instances_are_left_out_counted_and_handed_over(tmp_path):
    instances = [INSTANCE, [SECRET], INSTANCE | {"output": []}, INSTANCE, {"id": "task12-3"}]
    instances.append(INSTANCE | {"id": "task12-0"})
    path, bad = write(tmp_path, GOOD | {"Instances": instances}), []
    scan = task_file.Scan(path, 4, bad.append)
    good = list(scan)
    assert [instance.id for instance in good] == ["task12-0", "task12-3"]  # as if all were there
    assert [found.ordinal for found in bad] == [1, 2, 4, 5]
    assert [found.value for found in bad] == [instances[i] for i in (1, 2, 4, 5)]
    assert scan.file() == task_file.read(path, 4)
    assert (scan.file().n, scan.file().bad) == (2, 4)
    assert list(scan.file().instances()) == good
    for limit, at in ((0, 1), (1, 2), (3, 5)):
        with pytest.raises(UserError, match=f"task12, instance {at}: "):
            task_file.read(path, limit)
    with pytest.raises(UserError, match="all 1 are bad"):
        task_file.read(write(tmp_path, GOOD | {"Instances": [3]}), 9)


def test_a_broken_file_is_refused_whatever_the_limit(tmp_path):
    for case in ("lone comma", "json lines", "half a pair", "instances null", "deep"):
        with pytest.raises(UserError):
            task_file.read(write(tmp_path, BROKEN[case][0]), 100)


def test_ids_are_told_apart_in_little_memory():
    ids, rng = task_file._Ids(), np.random.default_rng(0)
    drawn = [str(i) for i in rng.integers(0, 40_000, 40_000)]
    seen = set()
    for id in drawn:
        assert ids.add(id) == (id not in seen)
        seen.add(id)
    assert len(ids._slots) * ids._slots.itemsize <= 24 * len(seen)


@pytest.mark.parametrize(
    "name",
    [
        "task12_pubmedqa_clissification.json",
        "task012_x.json",
        "task12_test_healthfact_verication.json.gz",
        "task12_enetity_summurization_test_only.jsonl",
        "task12_vertification.recovered.json",
    ],
)
def test_names_with_the_authors_typos_map_to_their_task(tmp_path, name):
    assert task_file.read(write(tmp_path, GOOD, name)).task == "task12"


@pytest.mark.parametrize("folder", ["natural_instructions", "official", "corpora_medsins"])
def test_real_files_give_what_json_gives(realdata, folder):
    paths = sorted(p for p in (realdata / folder).glob("task*") if ".json" in p.name)
    assert len(paths) >= 6
    for path in paths:
        data = path.read_bytes()
        document = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        file = task_file.read(path)
        found = list(file.instances())
        assert file.n == len(found) == len(document["Instances"])
        definition = document["Definition"]
        assert list(file.definitions) == (
            [definition] if isinstance(definition, str) else definition
        )
        for instance, wanted in zip(found, document["Instances"], strict=True):
            output = wanted["output"]
            assert instance.input == wanted["input"]
            assert list(instance.outputs) == ([output] if isinstance(output, str) else output)
