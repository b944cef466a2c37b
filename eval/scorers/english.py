"""English sentences and words as NLTK 3.9.1 splits them, which the official scores rest on.

Later versions of NLTK split otherwise (dashes, quotes), so their rules are restated here: the Punkt
sentence splitter (Kiss and Strunk 2006, sections 3 and 4) with its English parameters, and the
Penn Treebank word rules. Rules and parameters are NLTK's (Apache-2.0); the parameters were learned
by Jan Strunk from the Wall Street Journal.
"""

import functools
import gzip
import itertools
import re
from pathlib import Path
from typing import NamedTuple

# Sentences

# In which position and case a word was seen in the corpus.
BEGIN_LOWER, MIDDLE_UPPER = 16, 4
UPPER, LOWER = 2 + 4 + 8, 16 + 32 + 64

_NOT_IN_WORD = r"[)\";}\]*:@'({\[!?]"
_RUN = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_PUNKT_WORD = re.compile(
    rf"""{_RUN}
    | (?=[^("`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_NOT_IN_WORD}|{_RUN}|,(?=$|\s|{_NOT_IN_WORD}|{_RUN}))
    | \S""",
    re.VERBOSE,
)
_MAYBE_END = re.compile(rf"[.?!](?=(?P<after>{_NOT_IN_WORD}|\s+(?P<next>\S+)))")
_CLOSING = re.compile(r"[\"')\]}]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_NUMBER = re.compile(r"^-?[.,]?\d[\d,.-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")
_SPACE = " \t\n\r\x0b\x0c"


class _Punkt(NamedTuple):
    abbreviations: frozenset[str]
    starters: frozenset[str]
    collocations: frozenset[tuple[str, ...]]
    contexts: dict[str, int]


@functools.cache
def _punkt() -> _Punkt:
    data = gzip.decompress((Path(__file__).parent / "punkt_english.gz").read_bytes()).decode()
    parts = re.split(r"^# \w+\n", data, flags=re.MULTILINE)[1:]
    abbreviations, starters, collocations, contexts = (part.split("\n")[:-1] for part in parts)
    pairs = (line.rsplit("\t", 1) for line in contexts)
    return _Punkt(
        frozenset(abbreviations),
        frozenset(starters),
        frozenset(tuple(line.split("\t")) for line in collocations),
        {word: int(flags) for word, flags in pairs},
    )


class _Token:
    """A word as Punkt sees it: its type, and whether a sentence ends with it."""

    def __init__(self, text: str):
        self.text = text
        self.type = _NUMBER.sub("##number##", text.lower())
        self.initial = _INITIAL.match(text) is not None
        self.ends = self.short = False  # a sentence; an abbreviation or an ellipsis
        if text in (".", "?", "!"):
            self.ends = True
        elif _ELLIPSIS.match(text):
            self.short = True
        elif text.endswith(".") and not text.endswith(".."):
            word = text[:-1].lower()
            known = _punkt().abbreviations
            self.short = word in known or word.split("-")[-1] in known
            self.ends = not self.short

    @property
    def word(self) -> str:
        """The type without its period."""
        return self.type[:-1] if len(self.type) > 1 and self.type[-1] == "." else self.type

    @property
    def word_if_end(self) -> str:
        """The type, without its period where that ends a sentence."""
        return self.word if self.ends else self.type


def _decide(token: _Token, following: _Token) -> None:
    """Section 4: what follows tells whether a period ends a sentence."""
    if not token.text.endswith("."):
        return
    punkt, word, after = _punkt(), token.word, following.word_if_end
    if (word, after) in punkt.collocations:
        token.ends, token.short = False, True
        return
    upper = following.text[0].isupper()
    starts = _begins(following) or (upper and after in punkt.starters)
    if token.short and not token.initial and starts:
        token.ends = True
        return
    if token.initial or word == "##number##":
        begins = _begins(following)
        never_lower = not punkt.contexts.get(after, 0) & LOWER
        if begins is False or (begins is None and token.initial and upper and never_lower):
            token.ends, token.short = False, True


def _begins(token: _Token) -> bool | None:
    """Whether case tells that a sentence begins with `token`; None where it does not tell."""
    if token.text in (";", ":", ",", ".", "!", "?"):
        return False
    seen = _punkt().contexts.get(token.word_if_end, 0)
    if token.text[0].isupper() and seen & LOWER and not seen & MIDDLE_UPPER:
        return True
    if token.text[0].islower() and (seen & UPPER or not seen & BEGIN_LOWER):
        return False
    return None


@functools.lru_cache(maxsize=1 << 16)
def _is_end(context: str) -> bool:
    """Whether a sentence ends before the last word of `context`."""
    lines = context.split("\n")
    tokens = [_Token(text) for line in lines for text in _PUNKT_WORD.findall(line)]
    for token, following in itertools.pairwise(tokens):
        _decide(token, following)
    return any(token.ends for token in tokens[:-1])


def _candidates(text: str):
    """Each possible end of a sentence: its match, and the words around it."""
    start = stop = 0  # of the word before the last match
    last = None
    for match in _MAYBE_END.finditer(text):
        before = text[stop : match.start()]
        space = max(map(before.rfind, _SPACE))
        begin = stop + space + 1 if space > 0 else start
        if last and stop <= begin:
            yield last, text[start:stop] + last[0] + last["after"]
        last, start, stop = match, begin, match.start()
    if last:
        yield last, text[start:stop] + last[0] + last["after"]


def sentences(text: str) -> list[str]:
    """`text` in sentences; closing quotes and brackets stay with the sentence before."""
    spans, begin = [], 0
    for match, context in _candidates(text):
        if _is_end(context):
            spans.append((begin, match.end()))
            begin = match.start("next") if match["next"] else match.end()
    spans.append((begin, len(text.rstrip())))
    found, shift = [], 0
    for (begin, end), following in zip(spans, [*spans[1:], None], strict=True):
        begin += shift
        shift = 0
        closing = following and _CLOSING.match(text[following[0] : following[1]])
        if closing:
            end, shift = following[0] + len(closing[0].rstrip()), closing.end()
        if closing or text[begin:end]:
            found.append(text[begin:end])
    return found


# Words: substitutions, in this order, after which words stand between spaces.

_BEFORE_PADDING = [
    (r"([«“‘„]|[`]+)", r" \1 "),
    (r'^"', "``"),
    (r"(``)", r" \1 "),
    (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2"),
    (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&]", r" \g<0> "),
    (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
    (r"[?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*]", r" \g<0> "),
    (r"[\]\[(){}<>]", r" \g<0> "),
    (r"--", r" -- "),
]
_AFTER_PADDING = [
    (r"([»”’])", r" \1 "),
    (r"''", " '' "),
    (r'"', " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    (r"(?i)\b(can)(not)\b", r" \1 \2 "),
    (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
    (r"(?i)\b(gim)(me)\b", r" \1 \2 "),
    (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
    (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
    (r"(?i)\b(lem)(me)\b", r" \1 \2 "),
    (r"(?i)\b(more)('n)\b", r" \1 \2 "),
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is)\b", r" \1 \2 "),
    (r"(?i) ('t)(was)\b", r" \1 \2 "),
]
_BEFORE = [(re.compile(rule), by) for rule, by in _BEFORE_PADDING]
_AFTER = [(re.compile(rule), by) for rule, by in _AFTER_PADDING]


def words(text: str) -> list[str]:
    """The words and punctuation marks of `text`, sentence by sentence."""
    return [word for sentence in sentences(text) for word in _words(sentence)]


def _words(text: str) -> list[str]:
    for rule, by in _BEFORE:
        text = rule.sub(by, text)
    text = f" {text} "
    for rule, by in _AFTER:
        text = rule.sub(by, text)
    return text.split()
