"""The column `fixed`: what counts as right, and statistics that any reweighting may use."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scorers import answers, fixed
from eval.tasks import DISEASES, HALLMARKS, TASKS

NLI, YES_NO = TASKS["task41"].labels, TASKS["task12"].labels


def score(name, pairs, weights=None):
    """Metrics of one task over (prediction, gold or golds) pairs."""
    golds = [(gold,) if isinstance(gold, str) else gold for _, gold in pairs]
    statistics = fixed.score_rows(TASKS[name], [p for p, _ in pairs], golds)
    weights = np.ones(len(pairs)) if weights is None else weights
    return fixed.aggregate(TASKS[name], statistics, weights)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("b) x", "B"),
        ("D. Plasma cell", "D"),
        ("\\boxed{C}", "C"),
        ("Option B", "B"),
        ("Answer: C", "C"),
        ("H: other", "H"),
        ("The right answer is B: Metformin.", "B"),
        ("Based on the findings, the answer is (C) because", "C"),
        ("I think the answer is B", "B"),
        ("B is wrong; the answer is C", "C"),
        ("正确答案是 D: 二甲双胍", "D"),
        ("答案：Ｂ", "B"),
        ("正しい答えは C: ホルモン です", "C"),
        ("正解は C です", "C"),
        ("Les bonnes réponses est C: Le suc", "C"),
        ("Les bonnes réponses est B: L'un, C: Elle est, E: Le suc", "BCE"),
        ("Правильные ответ: A: да", "A"),
        ("Правильный ответ: В", "B"),  # a Cyrillic В
        ("La respuesta correcta es: B: sal", "B"),
        ("The right answer is D: Both A and B", "D"),
        ("The right answer is C: Vitamin A, D", "C"),
        ("The right answer is A: Hepatitis B: chronic", "A"),
        ("The right answer is D: A. i) B. ii) C. i)", "D"),
        ("B: x\n\nInput: y\nThe right answer is A: z", "B"),
        ("B or C", "BC"),
        ("A: x\tB: y\tC: z", "ABC"),
        ("A: x B: y C: z", "ABC"),
        ("A: x\nB: y\nC: z", "ABC"),
        ("The answer is B. No, the answer is C.", "BC"),
        ("The answer is not B", ""),
        ("Because of this", ""),
        ("Definitely diabetes", ""),
        ("A 45-year-old man", ""),
        ("The answer is a matter of taste", ""),
        ("", ""),
    ],
)
def test_choice_reads_the_letter(text, letters):
    assert answers.choice(text) == frozenset(letters)


def test_choice_by_the_words_of_the_option():
    gold = "The right answer is B: Metformin."
    assert answers.same_choice("metformin", gold)
    assert answers.same_choice("The right answer is Metformin.", gold)
    assert answers.same_choice("B Metformin", gold)
    assert answers.same_choice("Q fever", "The right answer is D: Q fever")
    assert answers.same_choice("S. sanguis.", "The right answer is D: S. sanguis")
    assert not answers.same_choice("C", "The right answer is D: C")
    assert not answers.same_choice("A: Metformin", gold)
    assert not answers.same_choice("Metformin and insulin", gold)
    assert not answers.same_choice("", gold)


@pytest.mark.parametrize(
    ("prediction", "gold", "labels", "right"),
    [
        ("The answer is entailment because", "Entailment.", NLI, True),
        ("Reasoning first.\nEntailment", "Entailment", NLI, True),
        ("non-entailment", "Entailment", NLI, False),
        ("Not neutral but entailment", "Neutral", NLI, False),
        ("entailment, contradiction, or neutral", "Neutral", NLI, False),
        ("neutralize", "Neutral", NLI, False),
        ("", "Neutral", NLI, False),
        ("", "", NLI, False),
        ("YES!", "yes", YES_NO, True),
        ("No, it does not answer it.", "no", YES_NO, True),
        ("I do not know", "no", YES_NO, False),
        ("Yes, normal", "no", YES_NO, False),
        ("yes\nno", "yes", YES_NO, False),
        ("The claim is 2.", "2", ("0", "1", "2"), True),
        ("12", "2", ("0", "1", "2"), False),
        ("2.0", "0", ("0", "1", "2"), False),
        ("Unstable angina", "The diagnosis result is Stable angina.", DISEASES, False),
        ("the diagnosis result is: sle", "The diagnosis result is SLE.", DISEASES, True),
        ("The patient fell asleep", "The diagnosis result is SLE.", DISEASES, False),
        ("no evidence of pneumonia", "Pneumonia", DISEASES, False),
        ("pneumonia is unlikely", "Pneumonia", DISEASES, False),
        ("It isn’t pneumonia", "Pneumonia", DISEASES, False),
        ("Possible NSTEMI/STEMI", "Possible NSTEMI / STEMI.", DISEASES, True),
        ("E. coli", "The diagnosis result is E. coli.", DISEASES, True),
        ("Some E. coli", "The diagnosis result is E. coli.", DISEASES, False),
        ("25 Gy", "2.5 Gy", (), False),
    ],
)
def test_labels_are_whole_and_alone(prediction, gold, labels, right):
    assert answers.same_label(prediction, gold, labels) is right


def test_spans_count_every_gold():
    golds = ("10 mg", "ten milligrams")
    pairs = [("Ten milligrams.", golds), ("'10  mg'", golds), ("110 mg", golds), ("", golds)]
    assert score("task29", pairs) == {"acc": 50.0}


def test_entities_are_a_set_in_any_order_and_spelling_of_none():
    for null in ("There is no related enetity.", "There is no related entity", ""):
        assert answers.entities(null) == frozenset()
    assert answers.entities("1,2-dichloroethane, N,N-dimethyl.") == {
        "1,2-dichloroethane",
        "n,n-dimethyl",
    }
    same = ("bb, aa, c1.", "AA,bb\nc1", "1. aa\n2. bb\n3. c1", "The entities are: aa; bb, and c1")
    assert {answers.entities(text) for text in same} == {frozenset({"aa", "bb", "c1"})}
    assert answers.entities("vitamin B1") != answers.entities("vitamin B2")


def test_ner_is_micro_and_counts_empty_answers():
    null = "There is no related enetity."
    pairs = [("a, x", "a, b."), ("", "c."), (null, null), ("y", null), ("d", ("e", "d"))]
    found = score("task126", pairs)  # tp 2, fp 2, fn 2
    assert found == {"f1": 50.0, "precision": 50.0, "recall": 50.0}
    assert score("task126", [(null, null)])["f1"] == 100.0
    assert score("task126", [("", "c.")])["f1"] == 0.0


def test_hallmarks_are_macro_over_the_labels_in_use():
    first, second, third = HALLMARKS[:3]
    pairs = [(first.upper(), f"{first}."), (f"1. {second}", f"{first}, {second}"), ("", third)]
    found = score("task106", pairs)
    assert found["precision"] == pytest.approx(100 * (1 + 1 + 0) / 3)
    assert found["recall"] == pytest.approx(100 * (1 / 2 + 1 + 0) / 3)
    assert found["f1"] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert score("task106", [(f"not {first}", first)])["f1"] == 0.0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("task18", "The drug lowers pressure."),
        ("task51", "该药物可降低血压。"),
        ("task54", "この薬は血圧を下げる。"),
        ("task55", "Препарат снижает давление."),
    ],
)
def test_free_text_scores_identity_100_and_nothing_0_in_every_script(name, text):
    assert score(name, [(text, text)]) == pytest.approx(
        {"bleu1": 100, "rouge1": 100, "rougeL": 100}
    )
    assert score(name, [("", text), ("...", text), ("zzz", text)])["rougeL"] == 0
    half = score(name, [(text[: len(text) // 2], text)])
    assert all(0 < value < 100 for value in half.values()), half


def test_bleu_has_a_brevity_penalty_and_takes_the_best_gold():
    found = score("task114", [("a b", "a b c d")])
    assert found["bleu1"] == pytest.approx(100 * np.exp(1 - 4 / 2))
    assert found["rouge1"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert score("task114", [("a b", ("x y", "a b"))])["bleu1"] == pytest.approx(100)
    assert score("task114", [("c b a", "a b c")])["rougeL"] == pytest.approx(100 / 3)


KINDS = {
    "task57": ["A: x", "B: y", "", "x"],
    "task130": ["Croup", "The diagnosis result is SLE.", "", "croup or sle"],
    "task126": ["a, b.", "b", "", "There is no related enetity."],
    "task106": [HALLMARKS[0], f"{HALLMARKS[0]}, {HALLMARKS[1]}", ""],
    "task114": ["a b c", "b c", "", "d e f g"],
}


@given(
    st.sampled_from(sorted(KINDS)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.lists(
                st.tuples(*[st.sampled_from(KINDS[name])] * 2, st.integers(0, 3)),
                min_size=1,
                max_size=6,
            ).filter(lambda rows: any(weight for _, _, weight in rows)),
        )
    )
)
def test_a_weight_is_a_repetition(case):
    name, rows = case
    pairs = [(prediction, gold) for prediction, gold, _ in rows]
    repeated = [(prediction, gold) for prediction, gold, n in rows for _ in range(n)]
    weights = np.array([[n for _, _, n in rows], [1] * len(rows)], float)
    found = score(name, pairs, weights)
    for metric, value in score(name, repeated).items():
        assert found[metric][0] == pytest.approx(value)
    for metric, value in score(name, pairs).items():
        assert found[metric][1] == pytest.approx(value)


def test_primary_alone_is_the_first_column():
    golds = [("a b c",), ("b", "a")]
    task = TASKS["task114"]
    alone = fixed.score_rows(task, ["a b", "b"], golds, primary_only=True)
    assert np.array_equal(alone, fixed.score_rows(task, ["a b", "b"], golds)[:, :1])
    assert list(fixed.aggregate(task, alone, np.ones(2))) == [task.primary]


@pytest.mark.skipif("MEDSJAX_REALDATA" not in os.environ, reason="set MEDSJAX_REALDATA")
@pytest.mark.parametrize("name", ["task60", "task122", "task123", "task126", "task127"])
def test_real_golds_are_right_in_every_form(name):
    file = Path(os.environ["MEDSJAX_REALDATA"]) / "corpora_medsins" / f"{name}.json.gz"
    golds = [row["output"] for row in json.loads(gzip.decompress(file.read_bytes()))["Instances"]]
    forms = [golds]
    if name == "task122":
        forms += [[f"({min(answers.choice(gold))})" for gold in golds]]
    elif name == "task60":  # several options may be right
        forms += [[", ".join(sorted(answers.choice(gold))) for gold in golds]]
    else:
        forms += [[gold.upper() for gold in golds]]
    for form in forms:
        found = score(name, list(zip(form, golds, strict=True)))
        assert found == dict.fromkeys(found, 100.0)
