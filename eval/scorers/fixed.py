"""The column `fixed`: each task's metric as it was meant.

Every item counts, an empty answer too; all golds of an item count, the best one is taken; nothing
is right by substring. Free text is sentence BLEU-1 (sacrebleu) and ROUGE-1/L (rouge-score) on
tokens fit for the language: for BLEU sacrebleu's `13a`, for Chinese its `zh`, for Japanese
characters (its `ja-mecab` needs a dictionary of its own); for ROUGE lower-cased words of any
script, one character a token in Chinese and Japanese. BLEU minds case, ROUGE does not.
"""

import functools
import re

import numpy as np

from eval.scorers import answers
from eval.tasks import Task

TEXT_METRICS = ("bleu1", "rouge1", "rougeL")
BLEU_TOKENIZER = {"zh": "zh", "ja": "char"}
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and ideographs


def score_rows(
    task: Task, predictions: list[str], golds: list[tuple[str, ...]], primary_only: bool = False
) -> np.ndarray:
    """Sufficient statistics float64[items, k]: k depends on the task's kind.

    choice, label, span: right or not. ner: true positives, false positives, false negatives.
    multilabel: the same three for each label. text: BLEU-1, ROUGE-1, ROUGE-L (0 to 1), the best
    over the golds of each; with `primary_only` BLEU-1 alone, which is much the cheapest.
    """
    width = {"ner": 3, "multilabel": 3 * len(task.labels), "text": 1 if primary_only else 3}
    rows = np.zeros((len(predictions), width.get(task.kind, 1)))
    for i, (prediction, its_golds) in enumerate(zip(predictions, golds, strict=True)):
        rows[i] = _row(task, prediction, tuple(its_golds), primary_only)
    return rows


def aggregate(task: Task, statistics: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics in percent from `statistics` [items, k] and item `weights` [..., items] -> [...]."""
    sums = weights @ statistics
    if task.kind == "ner":
        return _prf(sums)
    if task.kind == "multilabel":
        return _macro(sums.reshape(*sums.shape[:-1], -1, 3))
    means = 100 * sums / weights.sum(-1)[..., None]
    names = TEXT_METRICS if task.kind == "text" else (task.primary,)
    return {name: means[..., i] for i, name in enumerate(names) if i < means.shape[-1]}


def _row(task: Task, prediction: str, golds: tuple[str, ...], primary_only: bool):
    if task.kind == "choice":
        return any(answers.same_choice(prediction, gold) for gold in golds)
    if task.kind == "label":
        return any(answers.same_label(prediction, gold, task.labels) for gold in golds)
    if task.kind == "span":
        said = answers.normal(prediction)
        return said != "" and said in map(answers.normal, golds)
    if task.kind == "ner":
        counts = [_counts(prediction, answers.entities(gold)) for gold in golds]
        return max(counts, key=lambda c: 2 * c[0] / max(2 * c[0] + c[1] + c[2], 1))
    if task.kind == "multilabel":
        said = answers.named_labels(prediction, task.labels)
        meant = [answers.named_labels(gold, task.labels) for gold in golds]
        best = max(meant, key=lambda labels: len(said & labels) - len(said ^ labels))
        return [f(label) for label in task.labels for f in _cells(said, best)]
    return _text(prediction, golds, task.language, primary_only)


def _counts(prediction: str, meant: frozenset) -> tuple[int, int, int]:
    """True and false positives, false negatives; an empty answer misses even the null answer."""
    said = answers.entities(prediction)
    missed = len(meant - said) if prediction.strip() else max(len(meant), 1)
    return len(said & meant), len(said - meant), missed


def _cells(said: frozenset, meant: frozenset):
    """Tests for a label being a true positive, a false positive, a false negative."""
    return (said & meant).__contains__, (said - meant).__contains__, (meant - said).__contains__


def _prf(sums: np.ndarray) -> dict[str, np.ndarray]:
    """F1, precision and recall (percent) of counts [..., (tp, fp, fn)].

    Precision is 0 where nothing was said and recall 0 where nothing was to be said, but all three
    are 100 where both hold: to find nothing where nothing is, is right.
    """
    tp, fp, fn = np.moveaxis(sums, -1, 0)
    nothing = tp + fp + fn == 0

    def ratio(part, whole):
        return np.where(nothing, 100.0, 100 * part / np.maximum(whole, 1e-12))

    return {
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
    }


def _macro(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the labels of counts [..., labels, 3]; a label nobody names is left out."""
    seen = sums.sum(-1) > 0
    labels = np.maximum(seen.sum(-1), 1)
    return {name: (x * seen).sum(-1) / labels for name, x in _prf(sums).items()}


# Free text


def _text(prediction: str, golds: tuple[str, ...], language: str, primary_only: bool) -> list:
    if not prediction.strip():
        return [0.0] * (1 if primary_only else 3)
    bleu = _bleu(language)
    best = [max(bleu.sentence_score(prediction, [gold]).score / 100 for gold in golds)]
    if primary_only:
        return best
    scores = [_rouge().score(gold, prediction) for gold in golds]
    return best + [max(score[name].fmeasure for score in scores) for name in TEXT_METRICS[1:]]


@functools.cache
def _bleu(language: str):
    from sacrebleu.metrics import BLEU

    tokenizer = BLEU_TOKENIZER.get(language, "13a")
    return BLEU(tokenize=tokenizer, max_ngram_order=1, effective_order=True)


class Words:
    """A tokenizer for rouge-score, whose own drops every letter outside a to z."""

    pattern = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")

    def tokenize(self, text: str) -> list[str]:
        return self.pattern.findall(text.lower())


@functools.cache
def _rouge():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(list(TEXT_METRICS[1:]), tokenizer=Words())
