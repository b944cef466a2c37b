"""data.medsins: an example depends on (seed, id) alone; shots are others of the same task."""

import dataclasses
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from data.medsins import MedSIns
from medsjax.errors import UserError
from tests.test_build import write_task
from tests.test_prompts import ByteTokenizer

LONG = 100_000


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
    alone = dataclasses.replace(data, tasks=("task2",)).open(ByteTokenizer(), LONG, 0)
    assert texts(alone) == forward[200:240]  # other tasks beside it change nothing


def test_ids_and_mask(data):
    source = data.open(ByteTokenizer(), LONG, 0)
    for i in range(len(source)):
        ids, mask = source[i]
        assert ids.dtype == np.int32 and mask.dtype == np.bool_ and ids.shape == mask.shape
        answer = source.record(i)[1].outputs[0].strip()
        assert ids[mask].tolist() == [*answer.encode(), ByteTokenizer.EOT]
        assert mask[-1] and ids[0] == ByteTokenizer.BOS
    everything = dataclasses.replace(data, loss_on="all").open(ByteTokenizer(), LONG, 0)
    for i in range(len(source)):
        assert np.array_equal(everything[i][0], source[i][0]) and everything[i][1].all()


def test_shots_are_others_of_the_same_task_and_part(data):
    for part in ("all", "train", "heldout"):
        chosen = dataclasses.replace(data, part=part, few_shot=1.0)
        source = chosen.open(ByteTokenizer(), LONG, 0)
        own = {inputs(text)[-1] for text in texts(source)}
        for text in texts(source):
            *shots, query = inputs(text)
            assert query not in shots and len(set(shots)) == len(shots)
            assert all(shot in own and shot[0] == query[0] for shot in shots)


def test_share_and_number_of_shots(data):
    def counts(**change) -> Counter:
        source = dataclasses.replace(data, tasks=("task1",), **change).open(
            ByteTokenizer(), LONG, 0
        )
        return Counter(len(inputs(text)) - 1 for text in texts(source))

    assert counts(few_shot=0.0) == {0: 200}
    assert counts(few_shot=1.0, max_shots=1) == {1: 200}
    half = counts(few_shot=0.5)
    assert set(half) == {0, 1, 2, 3} and 75 <= half[0] <= 125  # sigma 7
    assert all(15 <= half[k] <= 52 for k in (1, 2, 3))  # 33 expected, sigma 5


def test_definitions_are_drawn_evenly_or_left_alone(data):
    def definitions(rewrites: bool) -> Counter:
        change = dict(tasks=("task1",), few_shot=0.0, rewrites=rewrites)
        source = dataclasses.replace(data, **change).open(ByteTokenizer(), LONG, 0)
        found = re.compile(r"system<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>")
        return Counter(found.search(text)[1] for text in texts(source))

    assert definitions(rewrites=False) == {"original": 200}
    drawn = definitions(rewrites=True)
    assert set(drawn) == {"original", "rewrite 0", "rewrite 1", "rewrite 2"}
    assert all(25 <= n <= 75 for n in drawn.values())  # 50 expected, sigma 6


def test_train_and_heldout_share_nothing_and_make_up_all(data):
    def ids(**change) -> list[str]:
        source = dataclasses.replace(data, **change).open(ByteTokenizer(), LONG, 0)
        return [source.record(i)[1].id for i in range(len(source))]

    train, heldout = ids(part="train"), ids(part="heldout")
    assert heldout == [f"task1-{i}" for i in range(180, 200)] + [
        f"task2-{i}" for i in range(36, 40)
    ]
    assert sorted(train + heldout) == sorted(ids(part="all")) and len(ids(part="all")) == 245
    assert len(ids(part="heldout", heldout_per_task=2)) == 4


def test_fingerprint_tells_content_settings_tokenizer_length_and_seed(data, tmp_path):
    changes = [dict(tasks=("task1",)), dict(few_shot=0.25), dict(max_shots=2), dict(rewrites=False)]
    changes += [dict(layout="paper"), dict(part="train"), dict(heldout_per_task=3)]
    changes += [dict(loss_on="all")]
    assert {key for change in changes for key in change} | {"path"} == {
        field.name for field in dataclasses.fields(MedSIns)
    }
    variants = [dataclasses.replace(data, **change) for change in changes]
    prints = [v.open(ByteTokenizer(), LONG, 0).fingerprint for v in [data, *variants]]
    other = ByteTokenizer()
    other.fingerprint = "other"
    prints += [data.open(*args).fingerprint for args in ((other, LONG, 0), (ByteTokenizer(), 9, 0))]
    prints += [data.open(ByteTokenizer(), LONG, 1).fingerprint]
    (tmp_path / "train").rename(tmp_path / "moved")
    moved = dataclasses.replace(data, path="moved")
    assert moved.open(ByteTokenizer(), LONG, 0).fingerprint == prints[0]
    write_task(tmp_path / "moved", 2, n=41)
    prints.append(moved.open(ByteTokenizer(), LONG, 0).fingerprint)
    assert len(set(prints)) == len(prints) == 13


def test_nothing_is_longer_than_asked_and_losses_are_told(data):
    source = dataclasses.replace(data, few_shot=1.0).open(ByteTokenizer(), 200, 0)
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
        dataclasses.replace(data, **change).open(ByteTokenizer(), LONG, 0)
    value = next(reversed(change.values()))
    named = value[-1] if isinstance(value, tuple) else value
    assert str(named) in str(caught.value) and "\n" not in str(caught.value)


def test_indices_end(data):
    source = data.open(ByteTokenizer(), LONG, 0)
    for i in (-1, len(source)):
        with pytest.raises(IndexError):
            source[i]
