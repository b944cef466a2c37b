"""data.corpora.write: items become task files that appear whole, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data import task_file
from data.corpora.write import Corpus, Item, Skip, build, definitions, nine_to_one
from medsjax.errors import UserError

ITEMS = (Item("train", "a", ("b",)), Item("test", "c", ("d",), "own id"))


def corpus_of(*items: Item | Skip) -> Corpus:
    return Corpus(
        task="task12",
        train="task12_made_up",
        test="task12_t",
        url="https://example.org",
        fetch="the file",
        split="none",
        definition="Do it.",
        read=lambda source: iter(items),
    )


def files(folder: Path) -> dict[Path, bytes]:
    """Training files first."""
    found = sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True)
    return {path: path.read_bytes() for path in found}


def test_nine_to_one_is_file_order():
    for n in range(1, 60):
        items = [(str(i), ("x",), "") for i in range(n)]
        splits = list(nine_to_one(items))
        assert [item.input for item in splits] == [str(i) for i in range(n)]
        expected = ["train"] * int(0.9 * n) + ["test"] * (n - int(0.9 * n))
        assert [item.split for item in splits] == expected


def test_any_text_and_several_golds_survive(tmp_path):
    texts = ['"\\\n\r\t\0', "病 😀 \u2028\x85", "", "]}", " a "]
    items = [Item("test", text, tuple(texts[i:]), "") for i, text in enumerate(texts)]
    written = build(corpus_of(*items), tmp_path, tmp_path / "out", ["Do it."])
    (path,) = written.files
    read = list(task_file.read(path).instances())
    assert [(i.input, i.outputs) for i in read] == [(i.input, i.outputs) for i in items]
    assert [i.id for i in read] == [f"task12-{n}" for n in range(len(texts))]
    assert isinstance(json.loads(path.read_text())["Instances"][-1]["output"], str)


def test_a_failed_build_leaves_what_was_there(tmp_path):
    def fails():
        yield from ITEMS
        raise UserError("line 3: broken")

    out = tmp_path / "out"
    written = build(corpus_of(*ITEMS), tmp_path, out, ["Do it."])
    before = {path: path.read_bytes() for path in written.files}
    assert list(before) == [out / "train" / "task12_made_up.json", out / "test" / "task12_t.json"]
    with pytest.raises(UserError, match="line 3: broken"):
        build(replace(corpus_of(), read=lambda source: fails()), tmp_path, out, ["Other."])
    assert files(out) == before


def test_a_killed_build_trips_nobody(tmp_path):
    left = tmp_path / "out" / ".partial-task12" / "test"
    left.mkdir(parents=True)
    (left / "task12_t.json").write_text("{")
    written = build(corpus_of(ITEMS[0]), tmp_path, tmp_path / "out", ["Do it."])
    assert list(files(tmp_path / "out")) == list(written.files)
    assert not left.parent.exists()


def test_skips_are_counted_by_reason(tmp_path):
    items = [Skip("no answer"), ITEMS[0], Skip("no answer"), Skip("no image")]
    written = build(corpus_of(*items), tmp_path, tmp_path / "out", ["Do it."])
    assert written.skipped == {"no answer": 2, "no image": 1}
    with pytest.raises(UserError, match="gives no instance of task12; give the file"):
        build(corpus_of(Skip("no answer")), tmp_path, tmp_path / "none", ["Do it."])


def test_a_full_disk_or_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"out.*: (Not a directory|File exists)"):
        build(corpus_of(*ITEMS), tmp_path, tmp_path / "out", ["Do it."])

    def full(source):
        yield ITEMS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        build(replace(corpus_of(), read=full), tmp_path, tmp_path / "full", ["Do it."])
    assert files(tmp_path / "full") == {}


@pytest.mark.parametrize(
    "content",
    [
        *(b"[]", b"{", b"\xff", b'{"task12": 3}', b'{"task12": {"original_def": "a"}}'),
        b'{"task12": {"original_def": "a", "auto_rewrite_def": [1]}}',
        b'{"task12": {"original_def": "a", "auto_rewrite_def": "bc"}}',
    ],
)
def test_a_definitions_file_of_another_shape(tmp_path, content):
    path = tmp_path / "defs.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"defs\.json: .*RewriteDefinitions\.json"):
        definitions(path, corpus_of())
    with pytest.raises(UserError, match="cannot be read"):
        definitions(tmp_path / "none.json", corpus_of())
