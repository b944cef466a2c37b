"""data.medsins: an example depends on (seed, id) alone; shots are others of the same task."""

import dataclasses
import json
import pickle
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data import mixture
from data.medsins import MedSIns
from data.prompts import draw_shots
from medsjax import config
from medsjax.errors import UserError
from tests.test_build import write_task
from tests.test_prompts import ByteTokenizer

LONG = 100_000
SIZES = {"task1": 200, "task2": 40, "task30": 5}


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> MedSIns:
    """A training set of 3 tasks; what is built lands in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    rewrites = [f"rewrite {i}" for i in range(3)]
    write_task(tmp_path / "train", 1, n=200, Definition=["original", *rewrites])
    write_task(tmp_path / "train", 2, n=40)
    write_task(tmp_path / "train", 30, n=5)
    return MedSIns(path="train")


def texts(source) -> list[str]:
    return [ByteTokenizer().render(source[i][0]) for i in range(len(source))]


def inputs(text: str) -> list[tuple[str, str]]:
    """(task, ordinal) of each input in a prompt: the shots' in order, then the query's."""
    return re.findall(r"(task\d+) in (\d+)", text)


def test_examples_depend_on_seed_and_id_alone(data):
    source = data.open(ByteTokenizer(), LONG, 0)
    forward = texts(source)
    again = pickle.loads(pickle.dumps(source))
    backward = [again[i][0] for i in reversed(range(len(again)))][::-1]
    assert all(np.array_equal(source[i][0], ids) for i, ids in enumerate(backward))
    assert forward != texts(data.open(ByteTokenizer(), LONG, 1))
    alone = replace(data, tasks=("task2",)).open(ByteTokenizer(), LONG, 0)
    assert texts(alone) == forward[200:240]  # other tasks beside it change nothing


def test_ids_and_mask(data):
    source = data.open(ByteTokenizer(), LONG, 0)
    for i in range(len(source)):
        ids, mask = source[i]
        assert ids.dtype == np.int32 and mask.dtype == np.bool_ and ids.shape == mask.shape
        answer = source.record(i)[0].outputs[0].strip()
        assert ids[mask].tolist() == [*answer.encode(), ByteTokenizer.EOT]
        assert mask[-1] and ids[0] == ByteTokenizer.BOS
    everything = replace(data, loss_on="all").open(ByteTokenizer(), LONG, 0)
    for i in range(len(source)):
        assert np.array_equal(everything[i][0], source[i][0]) and everything[i][1].all()


def test_shots_are_others_of_the_same_task_and_part(data):
    for part in ("all", "train", "heldout"):
        chosen = replace(data, part=part, few_shot=1.0)
        source = chosen.open(ByteTokenizer(), LONG, 0)
        own = {inputs(text)[-1] for text in texts(source)}
        for text in texts(source):
            *shots, query = inputs(text)
            assert query not in shots and len(set(shots)) == len(shots)
            assert all(shot in own and shot[0] == query[0] for shot in shots)


def test_share_and_number_of_shots(data):
    def counts(**change) -> Counter:
        source = replace(data, tasks=("task1",), **change).open(ByteTokenizer(), LONG, 0)
        return Counter(len(inputs(text)) - 1 for text in texts(source))

    assert counts(few_shot=0.0) == {0: 200}
    assert counts(few_shot=1.0, max_shots=1) == {1: 200}
    half = counts(few_shot=0.5)
    assert set(half) == {0, 1, 2, 3} and 75 <= half[0] <= 125  # sigma 7
    assert all(15 <= half[k] <= 52 for k in (1, 2, 3))  # 33 expected, sigma 5


def test_definitions_are_drawn_evenly_or_left_alone(data):
    def definitions(rewrites: float) -> Counter:
        change = dict(tasks=("task1",), few_shot=0.0, rewrites=rewrites)
        source = replace(data, **change).open(ByteTokenizer(), LONG, 0)
        found = re.compile(r"system<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>")
        return Counter(found.search(text)[1] for text in texts(source))

    assert definitions(rewrites=0.0) == {"original": 200}
    drawn = definitions(rewrites=1.0)
    assert set(drawn) == {"original", "rewrite 0", "rewrite 1", "rewrite 2"}
    assert all(25 <= n <= 75 for n in drawn.values())  # 50 expected, sigma 6
    half = definitions(rewrites=0.5)
    assert 95 <= half["original"] <= 155  # 125 expected, sigma 7
    assert all(8 <= half[f"rewrite {i}"] <= 42 for i in range(3))  # 25 expected, sigma 5


def test_fixed_shots_are_those_of_the_task_but_the_items_own(data):
    for part in ("all", "train"):
        chosen = replace(data, shots="fixed", few_shot=1.0, part=part, max_shots=2)
        source = chosen.open(ByteTokenizer(), LONG, 0)
        seen: dict[str, Counter] = {}
        for i, text in enumerate(texts(source)):
            record, _ = source.record(i)
            pool = source.parts[record.task]
            drawn = draw_shots((0, record.task), pool, 2, record.input)  # as evaluation does
            *shots, query = inputs(text)
            assert shots == [inputs(example.input)[0] for example in drawn.values()]
            assert query not in shots
            seen.setdefault(record.task, Counter())[tuple(shots)] += 1
        for task, draws in seen.items():  # one draw for all but the two that stand in it
            assert [n for _, n in draws.most_common()] == [len(source.parts[task]) - 2, 1, 1]
    again = pickle.loads(pickle.dumps(chosen.open(ByteTokenizer(), LONG, 0)))
    assert texts(again) == texts(source)
    other = replace(chosen, few_shot=0.5).open(ByteTokenizer(), LONG, 0)
    counts = Counter(len(inputs(text)) - 1 for text in texts(other))
    assert set(counts) == {0, 2}


def test_a_shot_never_has_the_items_text(tmp_path, data):
    same = [{"input": f"task4 in {i % 3}", "output": "x"} for i in range(60)]
    document = {"Definition": ["define"], "Instances": same}
    (tmp_path / "train" / "task4_same.json").write_text(json.dumps(document))
    for shots in ("per_item", "fixed"):
        chosen = replace(data, tasks=("task4",), few_shot=1.0, shots=shots)
        for text in texts(chosen.open(ByteTokenizer(), LONG, 0)):
            found = inputs(text)
            assert len(found) >= 2 and len(set(found)) == len(found)


def test_train_and_heldout_share_nothing_and_make_up_all(data):
    def ids(**change) -> list[str]:
        source = replace(data, **change).open(ByteTokenizer(), LONG, 0)
        return [source.record(i)[0].id for i in range(len(source))]

    train, heldout = ids(part="train"), ids(part="heldout")
    assert heldout == [f"task1-{i}" for i in range(180, 200)] + [
        f"task2-{i}" for i in range(36, 40)
    ]
    assert sorted(train + heldout) == sorted(ids(part="all")) and len(ids(part="all")) == 245
    assert len(ids(part="heldout", heldout_per_task=2)) == 4


def record_numbers(source) -> list[int]:
    starts = {task: info.start for task, info in source.built.tasks.items()}
    records = (source.record(i)[0] for i in range(len(source)))
    return [starts[r.task] + int(r.id.partition("-")[2]) for r in records]


def test_mixture_against_brute_force(data):
    """Counts by the formula; each task's examples by its own permutation; copies told apart."""
    change = dict(weights=("task1=0.5", "task2=2.5"), temperature=1.5, cap=150)
    source = replace(data, **change).open(ByteTokenizer(), LONG, 0)
    root = {task: min(n, 150) ** (1 / 1.5) for task, n in SIZES.items()}
    unit = (150 + 40 + 5) / sum(root.values())
    wanted = []
    for task, weight in (("task1", 0.5), ("task2", 2.5), ("task30", 1.0)):
        n, m = SIZES[task], round(weight * unit * root[task])
        start = source.built.tasks[task].start
        wanted += (start + mixture.choose(n, m, 150, (0, task))).tolist()
    found = record_numbers(source)
    assert found == wanted == sorted(wanted) and len(source) == len(wanted)
    seen: Counter = Counter()
    for i, number in enumerate(found):
        assert source.record(i)[1] == seen[number]
        seen[number] += 1
    assert max(seen.values()) >= 3


def test_an_example_is_the_same_in_any_mixture_and_its_copies_draw_anew(data):
    plain = data.open(ByteTokenizer(), LONG, 0)
    first = {source_id(plain, i): text for i, text in enumerate(texts(plain))}
    mixed = replace(data, weights=("task1=4",)).open(ByteTokenizer(), LONG, 0)
    by_id: dict[tuple[str, int], list[str]] = {}
    for i, text in enumerate(texts(mixed)):
        by_id.setdefault(source_id(mixed, i)[:1], []).append(text)
        if source_id(mixed, i)[1] == 0:
            assert text == first[source_id(mixed, i)]
    copies = [group for group in by_id.values() if len(group) == 4]
    assert len(copies) == 200
    assert sum(len(set(group)) == 1 for group in copies) <= 5  # 1 in 32 ** 3 at random
    assert sum(len(set(group)) == 4 for group in copies) >= 80
    backward = [mixed[i][0] for i in reversed(range(len(mixed)))][::-1]
    assert all(np.array_equal(mixed[i][0], ids) for i, ids in enumerate(backward))


def source_id(source, i: int) -> tuple[str, int]:
    record, copy = source.record(i)
    return record.id, copy


def test_heldout_keeps_its_own_mixture(data):
    mixed = replace(data, weights=("task1=0.1", "task30=2"), temperature=3.0, cap=1)
    plain, heldout = (
        replace(d, part="heldout").open(ByteTokenizer(), LONG, 0) for d in (data, mixed)
    )
    assert record_numbers(plain) == record_numbers(heldout)
    assert texts(plain) == texts(heldout)
    assert len(mixed.open(ByteTokenizer(), LONG, 0)) == 1 + 1 + 2
    for part, n in (("all", 45), ("heldout", 4)):  # a task of weight 0 is in neither
        without = replace(data, weights=("task1=0",), part=part).open(ByteTokenizer(), LONG, 0)
        assert len(without) == n and "task1" not in without.parts


def test_weights_from_the_command_line():
    argv = [
        "--config",
        "demo.py",
        "--config.data.weights",
        "task130=2",
        "Named Entity Recognition=0.5",
    ]
    cfg = config.load([*argv, "--config.data.cap=100", "--config.data.temperature=2"])
    weights = ("task130=2", "Named Entity Recognition=0.5")
    assert cfg.data == replace(cfg.data, weights=weights, cap=100, temperature=2.0)
    assert eval(repr(cfg.data), {"MedSIns": MedSIns}) == cfg.data  # equal in every process


def test_fixes_reach_rewrites_tasks_and_examples(tmp_path):
    leak = "Rewrite the following instruction definition directly: do it."
    write_task(tmp_path / "faulty", 1, n=30, Definition=["original", leak, "in other words"])
    write_task(tmp_path / "faulty", 39, n=30)
    answers = [{"input": f"task5 in {i}", "output": "" if i % 3 else "x"} for i in range(30)]
    document = {"Definition": ["d"], "Instances": answers}
    (tmp_path / "faulty" / "task5_made_up.json").write_text(json.dumps(document))
    switched = ("leaked_rewrites", "non_medical", "empty_answers")
    data = MedSIns(path="faulty", fixes=switched, few_shot=1.0)
    source = data.open(ByteTokenizer(), LONG, 0)
    assert list(source.parts) == ["task1", "task5"]
    assert source.parts["task1"].definitions == ("original", "in other words")
    assert leak not in "".join(texts(source))
    fifth = [text for text in texts(source) if "task5" in text]
    assert len(fifth) == 10  # left out as items and as shots
    assert all(int(place) % 3 == 0 for text in fifth for _, place in inputs(text))


def test_fingerprint_tells_content_settings_tokenizer_length_and_seed(data, tmp_path):
    write_task(tmp_path / "test", 1, n=3)
    changes = [dict(tasks=("task1",)), dict(few_shot=0.25), dict(max_shots=2), dict(rewrites=0.5)]
    changes += [dict(layout="paper"), dict(part="train"), dict(heldout_per_task=3)]
    changes += [dict(loss_on="all"), dict(shots="fixed"), dict(weights=("task1=2",))]
    changes += [dict(temperature=2.0), dict(cap=10), dict(fixes=("leaked_rewrites",))]
    changes += [dict(fixes=("test_duplicates",), test_path="test")]
    assert {key for change in changes for key in change} | {"path"} == {
        field.name for field in dataclasses.fields(MedSIns)
    }
    variants = [replace(data, **change) for change in changes]
    prints = [v.open(ByteTokenizer(), LONG, 0).fingerprint for v in [data, *variants]]
    other = ByteTokenizer()
    other.fingerprint = "other"
    prints += [data.open(*args).fingerprint for args in ((other, LONG, 0), (ByteTokenizer(), 9, 0))]
    prints += [data.open(ByteTokenizer(), LONG, 1).fingerprint]
    (tmp_path / "train").rename(tmp_path / "moved")
    moved = replace(data, path="moved")
    assert moved.open(ByteTokenizer(), LONG, 0).fingerprint == prints[0]
    write_task(tmp_path / "moved", 2, n=41)
    prints.append(moved.open(ByteTokenizer(), LONG, 0).fingerprint)
    assert len(set(prints)) == len(prints) == 19


def test_nothing_is_longer_than_asked_and_losses_are_told(data):
    source = replace(data, few_shot=1.0).open(ByteTokenizer(), 200, 0)
    items = [source.item(i) for i in range(len(source))]
    assert max(len(item.ids) for item in items) <= 200
    assert sum(item.dropped_shots > 0 for item in items) > 100
    for i, item in enumerate(items):
        assert np.array_equal(item.ids, source[i][0])
    short = data.open(ByteTokenizer(), 40, 0)
    with pytest.raises(UserError, match=r"^task1, task1-0: the definition and the headers take"):
        short[0]


@pytest.mark.parametrize(
    "change",
    [
        dict(tasks=("task1", "task7")),
        dict(few_shot=1.5),
        dict(max_shots=0),
        dict(rewrites=-0.5),
        dict(shots="fxed"),
        dict(temperature=0.5),
        dict(temperature=float("nan")),
        dict(cap=-1),
        dict(weights=("task1=2", "task31=2")),
        dict(weights=("task1=0", "task2=0", "task30=0"), path="train"),
        dict(fixes=("leaked_rewrites", "null_answer")),
        dict(layout="offical"),
        dict(part="test"),
        dict(loss_on="question"),
        dict(heldout_per_task=-1),
        dict(tasks=("task30",), part="heldout"),
        dict(path="nowhere"),
    ],
)
def test_mistakes_in_the_settings_name_the_value(data, change):
    with pytest.raises(UserError) as caught:
        replace(data, **change).open(ByteTokenizer(), LONG, 0)
    value = next(reversed(change.values()))
    named = value[-1] if isinstance(value, tuple) else value
    assert str(named).partition("=")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_indices_end(data):
    source = data.open(ByteTokenizer(), LONG, 0)
    for i in (-1, len(source)):
        with pytest.raises(IndexError):
            source[i]
