"""BLEU-1 and "ROUGE" as the official scorer computes them, number for number.

BLEU-1 is the mean of sentence scores on tokens of the language: NLTK 3.9.1's words, jieba's for
Chinese, Janome's for Japanese. What it calls ROUGE-1 is `rouge` 1.0.1's ROUGE-L: F1 over the sets
of words on longest common subsequences, sentences being whatever stands between two dots.
"""

import functools
import logging
import math
from collections import Counter

import numpy as np
from numba import njit

from eval.scorers import english, japanese

DEEPEST = 9990  # steps of its recursion that the official code survives


@functools.lru_cache(maxsize=1 << 12)  # a trivial score asks for the same texts again and again
def tokenize(text: str, language: str) -> tuple[tuple[str, ...], Counter]:
    """Tokens of `text`, and how often each stands in it.

    What is no string raises the TypeError that the official code dies of.
    """
    if language == "zh":
        tokens = _jieba().cut(text)
    elif language == "ja":
        tokens = japanese.words(text)
    else:
        tokens = english.words(text)
    tokens = tuple(tokens)
    return tokens, Counter(tokens)


def similarity(prediction: str, gold: str, language: str) -> tuple[float, float]:
    """(BLEU-1, ROUGE-L), 0 to 1. Raises what the official code would: TypeError for what is no
    string, ValueError for a text of nothing but dots, RecursionError for a very long sentence.
    """
    score = bleu1(prediction, gold, language)
    if language in ("zh", "ja"):
        prediction, gold = (" ".join(tokenize(text, language)[0]) for text in (prediction, gold))
    return score, rouge_l(prediction, gold)


def bleu1(prediction: str, gold: str, language: str) -> float:
    """Clipped unigram precision times the brevity penalty; 0 where no token is shared."""
    said, meant = tokenize(prediction, language)[1], tokenize(gold, language)[1]
    shared, length = sum(min(n, meant[token]) for token, n in said.items()), said.total()
    if not shared:
        return 0.0
    return min(1.0, math.exp(1 - meant.total() / length)) * shared / length


def rouge_l(prediction: str, gold: str) -> float:
    """F1 of the distinct words on any longest common subsequence of two sentences."""
    ids: dict[str, int] = {}
    said, meant = _sentences(prediction, ids), _sentences(gold, ids)
    if not said:
        raise ValueError("Hypothesis is empty.")
    if not meant:
        raise ValueError("Reference is empty.")
    shared = np.zeros(len(ids), np.bool_)
    for ours in meant:
        for theirs in said:
            if _mark_common(ours, theirs, shared) > DEEPEST:
                raise RecursionError("maximum recursion depth exceeded in comparison")
    precision = shared.sum() / len(np.unique(np.concatenate(said)))
    recall = shared.sum() / len(np.unique(np.concatenate(meant)))
    return float(2.0 * (precision * recall / (precision + recall + 1e-8)))


def _sentences(text: str, ids: dict[str, int]) -> list[np.ndarray]:
    """Word ids of the pieces between dots; a piece of white space has one empty word."""
    pieces = [" ".join(piece.split()).split(" ") for piece in text.split(".") if piece]
    return [np.array([ids.setdefault(word, len(ids)) for word in piece]) for piece in pieces]


@njit(cache=True)
def _mark_common(x, y, on_path):
    """Mark the ids on one longest common subsequence of `x` and `y`; steps of the way back.

    Ties go to the one before in `y`, which decides what the sequence is. Where the way back is too
    long whatever it is, nothing is marked.
    """
    n, m = x.size, y.size
    if max(n, m) > 2 * DEEPEST or n * m > 4 * DEEPEST * DEEPEST:
        return 2 * DEEPEST
    longest = np.zeros((n + 1, m + 1), np.int16)
    for i in range(n):
        for j in range(m):
            if x[i] == y[j]:
                longest[i + 1, j + 1] = longest[i, j] + 1
            else:
                longest[i + 1, j + 1] = max(longest[i, j + 1], longest[i + 1, j])
    steps = 0
    while n and m:
        if x[n - 1] == y[m - 1]:
            on_path[x[n - 1]] = True
            n, m = n - 1, m - 1
        elif longest[n - 1, m] > longest[n, m - 1]:
            n -= 1
        else:
            m -= 1
        steps += 1
    return steps


@functools.cache
def _jieba():
    import jieba

    jieba.setLogLevel(logging.ERROR)
    jieba.initialize()
    return jieba
