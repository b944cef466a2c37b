"""The column `standard`: what the field's libraries print for the same answers.

Free text is corpus BLEU and BLEU-1 (sacrebleu) and the mean ROUGE-1/2/L F1 (rouge-score), tokens as
in `fixed`. Short answers are right where they equal a gold, case, quotes and final dots aside:
nothing is read out of a sentence, as in lm-evaluation-harness's exact match. Every item counts; the
best of several golds does.
"""

import functools
from collections import Counter

import numpy as np

from eval.scorers import answers
from eval.scorers.fixed import BLEU_TOKENIZER, Words
from eval.tasks import Task

ROUGE = ("rouge1", "rouge2", "rougeL")
WORDS = Words()


def score_rows(
    task: Task, predictions: list[str], golds: list[tuple[str, ...]], primary_only: bool = False
) -> np.ndarray:
    """Statistics float64[items, k]: exact match and token F1 (0 to 1), then by kind

    choice, span: equality with a gold. label, multilabel: the same, then true positives, false
    positives and false negatives of each label. ner: those three of the entities, then the item's
    F1. text: n-grams that match and n-grams (n = 1 to 4), tokens, tokens of the gold, then ROUGE
    (left at 0 with `primary_only`).
    """
    rows = [
        [_exact(said, meant), _token_f1(said, meant), *_by_kind(task, said, meant, primary_only)]
        for said, meant in zip(predictions, map(tuple, golds), strict=True)
    ]
    return np.array(rows, float)


def aggregate(task: Task, statistics: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics in percent from `statistics` [items, k] and `weights` [..., items] -> [...]."""
    sums, n = weights @ statistics, weights.sum(-1)
    common, rest = sums[..., :2], sums[..., 2:]
    means = {"em": 100 * common[..., 0] / n, "token_f1": 100 * common[..., 1] / n}
    if task.kind == "text":
        rouge = {name: 100 * rest[..., 10 + i] / n for i, name in enumerate(ROUGE)}
        bleu1 = _bleu(rest[..., 0:1], rest[..., 4:5], rest[..., 8], rest[..., 9])
        bleu = _bleu(rest[..., 0:4], rest[..., 4:8], rest[..., 8], rest[..., 9])
        return {"bleu1": bleu1, "bleu": bleu, **rouge, **means}
    if task.kind == "ner":
        return {**_prf(rest[..., :3]), "macro_f1": 100 * rest[..., 3] / n, **means}
    labels = _labels(rest[..., 1:]) if task.labels else {}
    if task.kind == "label":
        labels = {"macro_f1": labels["f1"], "micro_f1": labels["micro_f1"]} if labels else {}
    return {"acc": 100 * rest[..., 0] / n, **labels, **means}


def _by_kind(task: Task, said: str, meant: tuple[str, ...], primary_only: bool) -> list[float]:
    if task.kind == "text":
        return _text(said, meant, task.language, primary_only)
    if task.kind == "ner":
        counts = [_counts(_list(said), _list(gold)) for gold in meant]
        return max(([*c, _f1(*c)] for c in counts), key=lambda c: c[3])
    if task.kind == "multilabel":
        wanted, given = _list(meant[0]), _list(said)
        return [given == wanted, *_cells(task, given, wanted)]
    equal = answers.normal(said) in map(answers.normal, meant)
    return [equal, *_cells(task, {_short(said)}, {_short(said if equal else meant[0])})]


def _cells(task: Task, said: set[str], meant: set[str]) -> list[bool]:
    """Each label's three counts: true positive, false positive, false negative."""
    labels = (answers.normal(label) for label in task.labels)
    sets = (said & meant, said - meant, meant - said)
    return [label in group for label in labels for group in sets]


def _exact(said: str, meant: tuple[str, ...]) -> bool:
    return said.strip() in {gold.strip() for gold in meant}


def _token_f1(said: str, meant: tuple[str, ...]) -> float:
    tokens = Counter(WORDS.tokenize(said))

    def f1(gold: str) -> float:
        wanted = Counter(WORDS.tokenize(gold))
        shared = (tokens & wanted).total()
        return _f1(shared, tokens.total() - shared, wanted.total() - shared)

    return max(map(f1, meant))


def _short(text: str) -> str:
    """The label of a gold string such as "The diagnosis result is croup."."""
    return answers.normal(answers.unopened(text))


def _list(text: str) -> set[str]:
    """The items between commas; the null answer, in either spelling, lists none."""
    return {answers.normal(item) for item in answers.entities(text)}


def _counts(said: set[str], meant: set[str]) -> tuple[int, int, int]:
    return len(said & meant), len(said - meant), len(meant - said)


def _f1(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def _prf(sums: np.ndarray) -> dict[str, np.ndarray]:
    """F1, precision and recall in percent of counts [..., 3]; 0 of 0 is 0, as in scikit-learn."""
    tp, fp, fn = np.moveaxis(sums, -1, 0)

    def ratio(part, whole):
        return 100 * part / np.maximum(whole, 1e-12)

    return {
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
    }


def _labels(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Macro (over all labels) and micro scores of counts [..., 3 * labels]."""
    sums = sums.reshape(*sums.shape[:-1], -1, 3)
    macro = {name: value.mean(-1) for name, value in _prf(sums).items()}
    micro = {f"micro_{name}": value for name, value in _prf(sums.sum(-2)).items()}
    return {**macro, **micro}


# Free text


def _text(said: str, meant: tuple[str, ...], language: str, primary_only: bool) -> list[float]:
    score = _sacrebleu(language).sentence_score(said, list(meant))
    ngrams = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    if primary_only:
        return [*ngrams, 0.0, 0.0, 0.0]
    best = _rouge().score_multi(list(meant), said)
    return [*ngrams, *(best[name].fmeasure for name in ROUGE)]


def _bleu(matches: np.ndarray, totals: np.ndarray, length: np.ndarray, gold_length: np.ndarray):
    """Corpus BLEU in percent from summed n-gram counts [..., N], smoothed as sacrebleu's "exp"."""
    log_precision = np.zeros(matches.shape[:-1])
    halvings = np.zeros(matches.shape[:-1])
    for n in range(matches.shape[-1]):
        none = matches[..., n] == 0
        halvings = halvings + none
        hits = np.where(none, 0.5**halvings, matches[..., n])
        log_precision = log_precision + np.log(hits / np.maximum(totals[..., n], 1e-300))
    penalty = np.minimum(0.0, 1 - gold_length / np.maximum(length, 1e-300))
    score = 100 * np.exp(penalty + log_precision / matches.shape[-1])
    possible = matches.any(-1) & totals.all(-1)
    return np.where(possible, np.nan_to_num(score), 0.0)


@functools.cache
def _sacrebleu(language: str):
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize=BLEU_TOKENIZER.get(language, "13a"), effective_order=True)


@functools.cache
def _rouge():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(ROUGE), tokenizer=WORDS)
