"""data.audit: planted faults are found and nothing else, as by brute force; no text gets out."""

import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data import audit, scan
from data.build import Built, build, find
from data.duplicates import NEAR, digest, normalise, shingles
from data.scan import EXACT_OTHER, EXACT_SAME, NEAR_OTHER, NEAR_SAME
from medsjax.errors import UserError, run_main

MARK = "zebrafish"  # in every text of an example and nowhere else
VOCABULARY = [a + b for a, b in itertools.product("abcdefghij", "klmnopqrst")]


def words(rng: random.Random, n: int) -> list[str]:
    return rng.choices(VOCABULARY, k=n)


def grams(text: str) -> set:
    """The shingles of a text in Latin script, by the definition."""
    parts = text.lower().split()
    return {tuple(parts[i : i + 5]) for i in range(max(len(parts) - 4, 1))}


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def write(folder: Path, number: int, instances, **header) -> Path:
    folder.mkdir(exist_ok=True)
    listed = [
        {"input": text, "output": answer, "id": f"{folder.name}-{number}-{i}"}
        for i, (text, answer) in enumerate(instances)
    ]
    document = {"Definition": "d", **header, "Instances": listed}
    (folder / f"task{number}_made_up.json").write_text(json.dumps(document))
    return folder


def make(tmp_path: Path, ins: Path, bench: Path) -> tuple[Built, Built]:
    return build(find(ins), "ins", tmp_path / "i"), build(find(bench), "bench", tmp_path / "b")


def test_shingles_are_the_sets_of_five_words_however_they_are_batched():
    rng = random.Random(0)
    texts = [" ".join(words(rng, n)) for n in (0, 1, 4, 5, 6, 30, 200)]
    texts += [" ".join(texts[-1].split()[:150]), "a b c d e a b c d e a b c d e"]
    together = shingles(texts)
    assert all(np.array_equal(s, shingles([t])[0]) for s, t in zip(together, texts, strict=True))
    for (a, s), (b, t) in itertools.product(zip(texts, together, strict=True), repeat=2):
        assert len(np.intersect1d(s, t)) == len(grams(a) & grams(b))


def test_texts_are_compared_without_case_space_and_width():
    assert normalise(" The ﬁrst\tＤＯＳＥ\n") == "the first dose"
    assert normalise("患者は痛い") == "患 者 は 痛 い"


@pytest.fixture(scope="module")
def similar(tmp_path_factory) -> tuple[Built, Built, list[list[str]]]:
    """Two tasks on both sides; the training side has test texts with some words changed."""
    folder, rng = tmp_path_factory.mktemp("similar"), random.Random(1)
    # Texts of one task share most of their words, as filled-in forms do.
    form = words(rng, 150)
    test = [" ".join(form[:115] + words(rng, 35)) for _ in range(100)]
    test += [" ".join(words(rng, rng.randrange(3, 120))) for _ in range(100)]
    train = []
    for i in range(400):
        text = rng.choice(test).split()
        for _ in range(rng.randrange(12)):
            text[rng.randrange(len(text))] = rng.choice(VOCABULARY)
        if i % 5 == 0:
            text[: len(text) // 10] = []
        train.append(" ".join(text).upper() if i % 2 else " ".join(text))
    for side, texts in (("ins", train), ("bench", test)):
        half = len(texts) // 2
        for number, part in ((12, texts[:half]), (13, texts[half:])):
            write(folder / side, number, [(text, "a") for text in part])
    return *make(folder, folder / "ins", folder / "bench"), [train, test]


def expected(of: list[str], against: list[str], itself: bool = False) -> tuple:
    """By comparing all pairs: likeness of each text in `of` and in `against`; pairs in doubt."""
    likeness, items, doubtful = [0] * len(of), [0] * len(against), set()
    sets = [grams(text) for text in against]
    for i, text in enumerate(of):
        mine = grams(text)
        for j, other in enumerate(against):
            same = (i < len(of) // 2) == (j < len(against) // 2)
            alike = jaccard(mine, sets[j])
            if text.lower() == other.lower():
                bit = EXACT_SAME if same else EXACT_OTHER
            else:
                bit = (NEAR_SAME if same else NEAR_OTHER) * (alike >= NEAR)
                if NEAR <= alike < NEAR + 0.01:  # MinHash may overlook one in a thousand of these
                    doubtful |= {("of", i), ("items", j)}
            if not (itself and i == j):
                likeness[i] |= bit
                items[j] |= bit
    return likeness, items, doubtful


def test_duplicates_are_those_of_brute_force(similar, tmp_path):
    ins, bench, (train, test) = similar
    for built, texts, itself in ((ins, train, False), (bench, test, True)):
        likeness, items, doubtful = expected(texts, test, itself)
        found = scan.scan(built, bench, tmp_path)
        told = {"of": (found.likeness, likeness), "items": (found.items, items)}
        for name, (got, want) in told.items():
            sure = [i for i in range(len(want)) if (name, i) not in doubtful]
            assert len(sure) > 0.9 * len(want)
            assert got[sure].tolist() == [want[i] for i in sure]
        if not itself:
            assert all(sum(bool(x & bit) for x in likeness) > 5 for bit in (1, 2, 4, 8))
            assert likeness.count(0) > 50


def test_it_does_not_matter_who_scans_what(similar, tmp_path):
    ins, bench, _ = similar
    whole = scan.scan(ins, bench, tmp_path / "cache")
    scan._index(bench).save(tmp_path)
    workers = itertools.cycle([scan._Worker(ins, bench, tmp_path) for _ in range(2)])
    chunks = [range(i, min(i + 37, len(ins))) for i in range(0, len(ins), 37)]
    parts = [next(workers).chunk(chunk) for chunk in chunks]
    items = np.zeros(len(bench), np.uint8)
    for _, touched, likeness in parts:
        items[touched] |= likeness
    assert np.array_equal(items, whole.items)
    assert np.array_equal(np.concatenate([part[3] for part, _, _ in parts]), whole.likeness)


@pytest.mark.slow
def test_processes_find_the_same(similar, tmp_path, monkeypatch):
    ins, bench, _ = similar
    alone = scan.scan(ins, bench, tmp_path / "alone")
    monkeypatch.setattr(scan, "ALONE", 0)
    monkeypatch.setattr(scan, "CHUNK", 201)
    monkeypatch.setattr(scan.os, "cpu_count", lambda: 2)
    together = scan.scan(ins, bench, tmp_path / "together")
    for name in ("inputs", "answers", "empty", "likeness", "items"):
        assert np.array_equal(getattr(alone, name), getattr(together, name))


def test_scripts_without_spaces_are_cut_into_characters(tmp_path):
    rng = random.Random(2)
    text = "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(120))
    near = text[:60] + "痛" + text[61:]
    far = "".join(text[i : i + 3] + "痛" for i in range(0, 120, 3))
    ins = write(tmp_path / "ins", 58, [(near, "a"), (far, "b"), (f" {text[:50]} {text[50:]}", "c")])
    bench = write(tmp_path / "bench", 58, [(text, "a")])
    found = scan.scan(*make(tmp_path, ins, bench), tmp_path)
    assert found.likeness.tolist() == [NEAR_SAME, 0, EXACT_SAME]


DEFINITION = ['Find it. If absent, output "There is no enetity."', "b", 'Else "No entity."', "b"]


@pytest.fixture
def faulty(tmp_path) -> tuple[Path, Path]:
    """A training and a test folder with each kind of fault once or twice."""
    rng = random.Random(3)

    def text(n: int = 60) -> str:
        return f"{MARK} {' '.join(words(rng, n))}"

    shared, labels = text(), ["yes", "no", "no"]
    first = [(text(), labels[i % 3]) for i in range(60)]
    first[8] = (f"{shared}  END", "no")
    first[20:22] = [("Twice", f"{MARK} yes"), ("twice ", "no")]
    first[30] = (first[30][0], " ")
    ins, bench = tmp_path / "ins", tmp_path / "bench"
    write(ins, 12, first)
    write(ins, 39, [(text(), "same") for _ in range(4)])
    free = [(text(), f"{MARK} {i}") for i in range(3)] + [("what", "one"), ("what", "two")]
    sure = "Sure, here's the rewritten definition: find it."
    write(ins, 126, free, Definition=[*DEFINITION, sure, "Got it, go on."])
    write(bench, 12, [(text(), "no") for _ in range(5)] + [(shared + " end", "no")])
    write(bench, 127, [(shared, f"{MARK} 1"), (shared, f"{MARK} 2"), (text(), f"{MARK} 3")])
    return ins, bench


def test_planted_faults_are_found_and_no_others(faulty, tmp_path):
    found = audit.audit(*make(tmp_path, *faulty), tmp_path / "cache")
    told = {
        (f["kind"], f["side"], f["task"]): (f["count"], f["ids"], f["fix"])
        for f in found["findings"]
    }
    both = ["bench-127-0", "bench-127-1"]
    assert told == {
        ("exact_in_train", "test", "task12"): (1, ["bench-12-5"], "test_duplicates"),
        ("near_in_train", "test", "task127"): (2, both, "test_duplicates"),
        ("like_test", "train", "task12"): (1, ["ins-12-8"], "test_duplicates"),
        ("exact_in_test", "test", "task127"): (2, both, ""),
        ("near_in_test", "test", "task12"): (1, ["bench-12-5"], ""),
        ("constant_answers", "train", "task39"): (
            4, [f"ins-39-{i}" for i in range(4)], "constant_answers",
        ),
        ("constant_answers", "test", "task12"): (6, [f"bench-12-{i}" for i in range(5)], ""),
        ("conflicting_answers", "train", "task12"): (
            2, ["ins-12-20", "ins-12-21"], "conflicting_answers",
        ),
        ("several_answers", "train", "task126"): (2, ["ins-126-3", "ins-126-4"], ""),
        ("several_answers", "test", "task127"): (2, both, ""),
        ("empty_answers", "train", "task12"): (1, ["ins-12-30"], "empty_answers"),
        ("null_absent", "train", "task126"): (5, [f"ins-126-{i}" for i in range(5)], ""),
        ("leaked_rewrites", "train", "task126"): (1, ["rewrite 3"], "leaked_rewrites"),
        ("chat_rewrites", "train", "task126"): (1, ["rewrite 4"], "chat_rewrites"),
        ("null_answers", "train", "task126"): (1, ["rewrite 1"], "null_answers"),
        ("duplicate_rewrites", "train", "task126"): (1, ["rewrite 2"], "duplicate_rewrites"),
        ("non_medical", "train", "task39"): (
            4, [f"ins-39-{i}" for i in range(4)], "non_medical",
        ),
    }  # fmt: skip
    overlap = {row["task"]: row for row in found["overlap"]}
    assert (overlap["task12"]["train_same_exact"], overlap["task12"]["test_other_near"]) == (1, 1)
    assert overlap["task127"]["train_other_near"] == overlap["task127"]["test_same_exact"] == 2
    assert audit.named(found) == list(audit.fixes.FIXES)


def test_shares_of_labels(faulty, tmp_path):
    found = audit.audit(*make(tmp_path, *faulty), tmp_path / "cache")
    rows = {(row["side"], row["task"]): row for row in found["labels"]}
    row = rows["train", "task12"]
    no = f"{digest('no'):016x}"[:8]
    assert (row["n"], row["answers"]) == (60, 4)  # yes, no, the conflicting one, the empty one
    assert row["majority"] == row["shares"][no] == pytest.approx(100 * 40 / 60)
    assert rows["test", "task12"]["shares"] == {no: 100.0}
    assert ("train", "task126") not in rows


def test_reports_hold_no_text(faulty, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ins, bench = map(str, faulty)
    command = ["audit", "--train", ins, "--test", bench, "--out", "out"]
    monkeypatch.setattr(sys, "argv", command)
    run_main(audit.main)
    first = {p.name: p.read_text() for p in (tmp_path / "out").iterdir()}
    printed = capsys.readouterr().out
    assert set(first) == {"audit.html", "audit.json"}
    for text in (*first.values(), printed):
        assert MARK not in text.lower()
        assert not any(pair in text for pair in ("There is no", "rewritten", "Got it"))
    assert "test_duplicates" in printed
    assert "http" not in first["audit.html"].replace("http-equiv", "")
    run_main(audit.main)
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == first


def test_hostile_ids_are_escaped(tmp_path):
    hostile = "<script>alert(1)</script>"
    folder = tmp_path / "bench"
    folder.mkdir()
    instances = [{"id": f"{hostile}{i}", "input": "a", "output": ""} for i in range(2)]
    document = {"Definition": "d", "Instances": instances}
    (folder / "task12_x.json").write_text(json.dumps(document))
    built = build(find(folder), "bench", tmp_path / "built")
    page = audit.render(audit.audit(None, built, tmp_path))
    assert hostile not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("side", ["train", "test"])
def test_one_side_alone_says_what_is_not_checked(faulty, tmp_path, side):
    train, test = make(tmp_path, *faulty)
    found = audit.audit(*((train, None) if side == "train" else (None, test)), tmp_path / "cache")
    absent = {"train": "no --test", "test": "no --train"}[side]
    assert len(found["not_checked"]) == 1 and absent in found["not_checked"][0]
    assert {f["side"] for f in found["findings"]} == {side}
    assert not any(f["kind"].endswith("in_train") for f in found["findings"])
    assert bool(found["overlap"]) == (side == "test")
    page = audit.render(found)
    assert found["not_checked"][0] in page.replace("&#39;", "'") and "not given" in page


def test_nothing_to_find(tmp_path):
    rng = random.Random(4)
    ins = write(tmp_path / "ins", 13, [(" ".join(words(rng, 50)), f"{i}") for i in range(9)])
    bench = write(tmp_path / "bench", 13, [(" ".join(words(rng, 50)), f"{i}") for i in range(9)])
    found = audit.audit(*make(tmp_path, ins, bench), tmp_path)
    assert found["findings"] == found["overlap"] == found["labels"] == []
    assert "Nothing was found" in audit.render(found)
    with Console(file=open("/dev/null", "w")) as console:
        console.print(*audit.tables(found))


def test_a_user_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    ins = write(tmp_path / "ins", 13, [("a", "b")])
    for arguments, told in (
        ([], "give --train DIR, --test DIR, or both"),
        (["--train", "nowhere"], "nowhere: there is nothing here"),
        (["--train", str(ins), "--out", "file"], "file: cannot be made"),
    ):
        monkeypatch.setattr(sys, "argv", ["audit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            run_main(audit.main)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and told in error and error.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path):
    bench = write(tmp_path / "bench", 13, [("a", "b")])
    built = build(find(bench), "bench", tmp_path / "built")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        scan.scan(built, None, tmp_path / "file" / "cache")
