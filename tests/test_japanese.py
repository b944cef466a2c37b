"""Japanese words against Janome itself."""

import random

import pytest
from janome.tokenizer import Tokenizer

from eval.scorers import japanese

SENTENCES = (
    "患者は三日前から発熱と咳があり、近医で抗菌薬を処方されたが改善しなかった。",
    "血圧は120/80mmHg、脈拍は88回/分であった。",
    "すもももももももものうち",
    "ヘリコバクター・ピロリ菌の除菌療法を行う（第一選択はＰＰＩ）。",
)
ALPHABET = "".join(SENTENCES) + " \n\t　!?.,ｱｲ〇々々ー😀éжABab12" * 3


def texts():
    """Sentences, salad of their characters, and texts around the lengths where Janome cuts."""
    rng = random.Random(0)
    yield from SENTENCES
    yield from ("", "  ", "ア" * 1100, "漢" * 600, "a" * 2100, "あ\n\n" * 200, "x\r\n\r\n" * 150)
    for n in (1, 2, 3, 5, 8, 20, 60, 499, 500, 501, 1023, 1024, 1025, 1600):
        yield "".join(rng.choice(ALPHABET) for _ in range(n))
    for n in (600, 1300):
        yield (" ".join(SENTENCES) * 20)[:n]
        yield (SENTENCES[2] * 200)[:n]


@pytest.fixture(scope="module")
def janome():
    return Tokenizer()


@pytest.mark.parametrize("text", texts(), ids=lambda text: f"{len(text)}")
def test_words_are_janomes(janome, text):
    assert japanese.words(text) == list(janome.tokenize(text, wakati=True))


def test_half_a_surrogate_pair_raises_as_in_janome(janome):
    for split in (japanese.words, lambda text: list(janome.tokenize(text, wakati=True))):
        with pytest.raises(UnicodeEncodeError):
            split("あ\ud800")
