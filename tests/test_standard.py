"""The column `standard` against the libraries themselves."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from eval.scorers import standard
from eval.tasks import HALLMARKS, TASKS


def score(name, pairs, weights=None):
    """Metrics of one task over (prediction, gold) pairs."""
    statistics = standard.score_rows(TASKS[name], [p for p, _ in pairs], [(g,) for _, g in pairs])
    weights = np.ones(len(pairs)) if weights is None else weights
    return standard.aggregate(TASKS[name], statistics, weights)


def sentences(seed: int, n: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    words = ["a", "the", "of", "patient", "fever", "cough,", "dose", "5", "mg", "and", ".", "no"]
    texts = [" ".join(rng.choice(words, rng.integers(0, 14))) for _ in range(2 * n)]
    return [(texts[i], f"{texts[n + i]} end") for i in range(n)]


@pytest.mark.parametrize("seed", range(8))
def test_bleu_is_sacrebleus_corpus_score(seed):
    pairs = sentences(seed, 3 + seed)
    got = score("task18", pairs)
    said, meant = [p for p, _ in pairs], [[g for _, g in pairs]]
    for name, n in (("bleu", 4), ("bleu1", 1)):
        want = BLEU(max_ngram_order=n).corpus_score(said, meant).score
        assert got[name] == pytest.approx(want, abs=1e-9)


def test_a_weight_is_a_repetition_of_the_item():
    pairs = sentences(3, 6)
    weights = np.array([2, 0, 1, 3, 1, 0])
    repeated = [pair for pair, times in zip(pairs, weights, strict=True) for _ in range(times)]
    got, want = score("task18", pairs, weights), score("task18", repeated)
    assert got == {name: pytest.approx(value) for name, value in want.items()}
    stacked = score("task18", pairs, np.stack([weights, np.ones(6)]))
    assert stacked["bleu"][0] == pytest.approx(want["bleu"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("task51", "患者有发热和咳嗽"),
        ("task54", "患者は発熱がある"),
        ("task55", "Пациент жалуется на боль"),
        ("task52", "The patient has a fever and a cough."),
    ],
)
def test_identical_text_is_100_in_every_script(name, text):
    got = score(name, [(text, text)])
    for metric in ("bleu", "bleu1", "rouge1", "rouge2", "rougeL", "em", "token_f1"):
        assert got[metric] == pytest.approx(100)
    assert score(name, [("", text)])["bleu1"] == 0


def test_short_answers_must_equal_the_gold():
    gold = "The diagnosis result is Croup."
    pairs = [("the diagnosis result is croup", gold), ("Croup, surely", gold), (gold, gold)]
    got = score("task130", pairs)
    assert got["acc"] == pytest.approx(200 / 3)
    assert got["em"] == pytest.approx(100 / 3)
    assert got["micro_f1"] == pytest.approx(100 * 4 / 5)  # one label is missed, none invented
    assert got["macro_f1"] == pytest.approx(100 * 4 / 5 / len(TASKS["task130"].labels))


def test_entities_are_micro_and_macro():
    pairs = [("a, b.", "a, c."), ("a.", "a."), ("", "There is no related enetity.")]
    got = score("task125", pairs)
    assert (got["precision"], got["recall"]) == (pytest.approx(200 / 3), pytest.approx(200 / 3))
    assert got["f1"] == pytest.approx(200 / 3)
    assert got["macro_f1"] == pytest.approx(100 * (0.5 + 1 + 1) / 3)


def test_hallmarks_are_macro_over_all_ten():
    pairs = [(HALLMARKS[0], f"{HALLMARKS[0]}, {HALLMARKS[1]}"), (HALLMARKS[2], HALLMARKS[2])]
    got = score("task106", pairs)
    assert got["f1"] == pytest.approx(100 * 2 / 10)
    assert got["recall"] == pytest.approx(100 * 2 / 10)
    assert got["micro_f1"] == pytest.approx(100 * 4 / 5)
    assert got["acc"] == 50


def test_the_best_gold_counts():
    statistics = standard.score_rows(TASKS["task29"], ["5 mg"], [("10 mg", "5 mg")])
    got = standard.aggregate(TASKS["task29"], statistics, np.ones(1))
    assert got == {"acc": 100, "em": 100, "token_f1": 100}
