"""Exact and near duplicates of test items: texts -> hashed shingles -> MinHash -> true Jaccard.

A text is compared without regard to case, white space and Unicode's variants of a character. It is
the set of its shingles: runs of five words, or of five characters in scripts without spaces.
Two texts are near duplicates if the Jaccard index of their sets is at least NEAR. MinHash (Broder
1997; through `datasketch`) only proposes pairs, the index itself is computed for each of them.

The test side is small and lies in an `Index`; the training side streams past it. The index keeps
MinHash's bands in one sorted array, which processes share as a file: `datasketch`'s own tables of
Python sets take ten times the memory, in every process.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasketch import MinHash

FORMAT = 1  # of what counts as a duplicate
NEAR = 0.8  # Jaccard index
WORDS = 5  # in a shingle
# A pair at NEAR shares no band with a probability of (1 - NEAR ** ROWS) ** BANDS = 5e-5; one in a
# thousand is estimated more than three standard errors too low, below ESTIMATE.
BANDS, ROWS = 25, 5
ESTIMATE = NEAR - 3 * (NEAR * (1 - NEAR) / (BANDS * ROWS)) ** 0.5
LONGEST = 1 << 16  # characters of a text that are cut into shingles
BATCH = 64  # texts hashed together

# Scripts that write without spaces: Thai to Khmer, kana, Chinese characters. Each is a word here.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u9fff])")


def normalise(text: str) -> str:
    """The text that is compared: words with one space between them."""
    if not text.isascii():
        text = _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", text))
    return " ".join(text.casefold().split())


def digest(text: str) -> int:
    """64 bits of a text."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def shingles(texts: Sequence[str]) -> list[np.ndarray]:
    """The hashed shingles of each normalised text: uint64, ascending, each once, at least one.

    A text of fewer than five words is one shingle. All texts are hashed together: the hash of a
    span is a difference of two prefix sums of a polynomial over its bytes, modulo 2 ** 64.
    """
    whole = "".join(f"{text[:LONGEST]}\n" for text in texts)
    data = np.frombuffer(whole.encode("utf-8", "surrogatepass"), np.uint8)
    random, powers, inverses = _tables(1 << len(data).bit_length())
    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(random[data] * powers[: len(data)], out=sums[1:])
    ends = np.flatnonzero((data == ord(" ")) | (data == ord("\n")))  # of words
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = np.flatnonzero(data[ends] == ord("\n"))  # word of each text
    first = np.concatenate([[0], last[:-1] + 1])
    found = []
    for a, b in zip(first, last, strict=True):
        n = max(b - a + 2 - WORDS, 1)
        begin, end = starts[a : a + n], ends[max(b + 1 - n, a) : b + 1]
        found.append(np.unique(_mix((sums[end] - sums[begin]) * inverses[begin])))
    return found


@cache
def _tables(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random number for each byte; powers of an odd base and their inverses."""
    random = np.random.default_rng(20250101).integers(0, 1 << 64, 256, np.uint64)
    base = 0x9E3779B97F4A7C15
    inverse = pow(base, -1, 1 << 64)
    return random, *(np.cumprod(np.full(size, b, np.uint64)) for b in (base, inverse))


def _mix(x: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of `x` (MurmurHash3's finalizer)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


_EMPTY = MinHash(BANDS * ROWS, hashfunc=int)


def signature(shingles: np.ndarray) -> np.ndarray:
    """MinHash of a set of shingles: uint32 [BANDS * ROWS]."""
    minhash = _EMPTY.copy()
    minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
    return minhash.hashvalues


def bands(signatures: np.ndarray) -> np.ndarray:
    """Signatures [..., BANDS * ROWS] -> a key for each band: uint64 [..., BANDS]."""
    rows = signatures.reshape(*signatures.shape[:-1], BANDS, ROWS).astype(np.uint64)
    keys = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), rows.shape[:-1])
    for row in range(ROWS):
        keys = _mix(keys ^ rows[..., row] * np.uint64(0x9E3779B97F4A7C15))
    return keys


@dataclass(frozen=True)
class Index:
    """N test items."""

    digests: np.ndarray  # uint64 [N], of the normalised texts
    shingles: np.ndarray  # uint64, those of all items one after the other
    bounds: np.ndarray  # int64 [N + 1]: item i has shingles[bounds[i]:bounds[i + 1]]
    seen: np.ndarray  # uint8: one bit for each value of some bits of a shingle
    signatures: np.ndarray  # uint32 [N, BANDS * ROWS]
    keys: np.ndarray  # uint64 [N * BANDS], ascending
    items: np.ndarray  # int32 [N * BANDS]: whose key it is

    def save(self, folder: Path) -> None:
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """As files in memory, which several processes share."""
        files = (np.load(folder / f"{f.name}.npy", mmap_mode="r") for f in fields(cls))
        return cls(*map(np.asarray, files))  # slices of plain arrays cost less

    def possible(self, shingles: np.ndarray) -> bool:
        """False only where no item can be a near duplicate.

        Those share at least NEAR of the text's shingles, so the items together hold as many.
        """
        at = shingles >> np.uint64(64 - (len(self.seen) * 8).bit_length() + 1)
        bits = self.seen[at >> np.uint64(3)] >> (at & np.uint64(7)).astype(np.uint8)
        return np.count_nonzero(bits & 1) >= NEAR * len(shingles)

    def candidates(self, shingles: np.ndarray) -> np.ndarray:
        """Items that may be near duplicates, the likeliest first."""
        of_text = signature(shingles)
        keys = bands(of_text)
        begin, end = (np.searchsorted(self.keys, keys, side) for side in ("left", "right"))
        parts = [self.items[a:b] for a, b in zip(begin, end, strict=True) if a < b]
        found = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int32)
        sizes = self.bounds[found + 1] - self.bounds[found]
        fits = (sizes >= NEAR * len(shingles)) & (NEAR * sizes <= len(shingles))
        found = found[fits]
        estimate = (self.signatures[found] == of_text).mean(1)
        order = np.argsort(-estimate, kind="stable")
        return found[order][estimate[order] >= ESTIMATE]

    def jaccard(self, shingles: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The Jaccard index of a text's shingles with those of each of the items: float [n]."""
        sets = [self.shingles[self.bounds[i] : self.bounds[i + 1]] for i in items]
        sizes = np.array([len(s) for s in sets])
        whole = np.concatenate(sets)
        at = np.minimum(np.searchsorted(shingles, whole), len(shingles) - 1)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        common = np.add.reduceat((shingles[at] == whole).astype(np.int64), starts)
        return common / (sizes + len(shingles) - common)


def index(texts: Iterable[str]) -> Index:
    """The index of normalised texts, which are taken one batch after the other."""
    texts = iter(texts)
    digests, sets, signatures = [], [], []
    while batch := list(itertools.islice(texts, BATCH)):
        digests += map(digest, batch)
        sets += shingles(batch)
        signatures += map(signature, sets[-len(batch) :])
    found = np.concatenate(sets)
    keys = bands(np.array(signatures)).ravel()
    order = np.argsort(keys, kind="stable")
    return Index(
        digests=np.array(digests, np.uint64),
        shingles=found,
        bounds=np.concatenate([[0], np.cumsum([len(s) for s in sets])]),
        seen=_seen(found),
        signatures=np.array(signatures),
        keys=keys[order],
        items=(order // BANDS).astype(np.int32),
    )


def _seen(shingles: np.ndarray) -> np.ndarray:
    """A bit set for each shingle; at most one in sixteen is set, so few others look seen."""
    log2 = max((16 * len(shingles)).bit_length(), 10)
    at = shingles >> np.uint64(64 - log2)
    seen = np.zeros((1 << log2) // 8, np.uint8)
    np.bitwise_or.at(seen, at >> np.uint64(3), np.uint8(1) << (at & np.uint64(7)).astype(np.uint8))
    return seen
