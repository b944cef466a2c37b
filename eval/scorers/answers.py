"""What an answer says: free text in, a letter, a label, a span or a set out.

Gold and prediction go through the same reading, so formats ("The diagnosis result is …", a final
dot, capitals) cannot make equal answers differ. Nothing is found inside a longer word.
"""

import re
import unicodedata

_QUOTES = str.maketrans("", "", "\"'`*“”‘’«»")
_END = " .,;:!。，、；"
_OPEN = re.compile(
    r"^(?:the\s+|my\s+)?(?:(?:final|correct|right|best|most\s+likely|suggested)\s+)?"
    r"(?:diagnosis|treatment|answer|label|class|category|output|result|hallmarks?|entit(?:y|ies))"
    r"(?:\s+(?:result|planning|plan|suggestion))?\s*(?:\b(?:is|are|would\s+be)\b\s*:?|:)\s*"
)
_CLAUSE = re.compile(r"[.,;!?。，；]+(?=\s|$)|\n")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]\w*|[+%<>=≤≥±]")
_NEGATION = re.compile(
    r"no|not|non|nor|neither|never|none|without|cannot|(?:is|are|was|does|did|do|ca|wo)nt|unlikely"
    r"|excluded?|excludes|ruled?|rules|wrong|incorrect|than|instead"
)


def normal(text: str) -> str:
    """Case, width, quotes, runs of white space and final punctuation made alike."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES)
    return " ".join(text.split()).rstrip(_END)


def unopened(text: str) -> str:
    """Without an opening such as "The diagnosis result is"; line ends stay."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES).strip()
    return _OPEN.sub("", text, count=1)


# Labels


def _words(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text))


def same_label(prediction: str, gold: str, labels: tuple[str, ...]) -> bool:
    """True if the answer is the gold label: alone, or the one label of the closed set it names.

    An answer that names another label too, or denies one, is wrong, wherever it stands.
    """
    said, meant = unopened(prediction), _words(unopened(gold))
    if not meant:
        return False
    if _words(said) == meant:
        return True
    closed = {_words(label.casefold()) for label in labels}
    return meant in closed and _named(said, closed) == {meant}


def _named(text: str, labels: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """The labels `text` names, the longest at each place; none at all if it denies one."""
    found: set[tuple[str, ...]] = set()
    for clause in _CLAUSE.split(text):
        words, rest, here = _words(clause), [], set()
        while words:
            match = max((x for x in labels if words[: len(x)] == x), key=len, default=None)
            if match:
                here.add(match)
            else:
                rest.append(words[0])
            words = words[len(match or "1") :]
        if here and any(_NEGATION.fullmatch(word) for word in rest):
            return set()
        found |= here
    return found


# Lists

_NULL = re.compile(r"there (?:is|are) no related (?:enetity|entity|entities)")
# A comma ends an item, but not the locants of "1,2-dichloroethane", "N,N-dimethyl" or "3,3',5-".
_COMMA = re.compile(r"[\n\t;；、，]|,(?=\s|$)|(?<!\b\w)(?<![\d'′]),")


def _items(text: str) -> set[str]:
    items = (normal(item) for item in _COMMA.split(unopened(text)))
    return {re.sub(r"^(?:and |\d+[.)] |[-•] )", "", item) for item in items} - {""}


def entities(text: str) -> frozenset[str]:
    """The entities listed; the null answer, in either spelling, and an empty one list none."""
    return frozenset() if _NULL.fullmatch(normal(text)) else frozenset(_items(text))


def named_labels(text: str, labels: tuple[str, ...]) -> frozenset[str]:
    """Those of `labels` that are an item of the list; other items are passed over."""
    items = {_words(item) for item in _items(text)}
    return frozenset(label for label in labels if _words(label) in items)


# Multiple choice

_PREFIX = (
    r"(?i:(?:the\s+)?(?:(?:right|correct|best|final)\s+)?(?:answers?|options?|choices?)"
    r"(?:\s+(?:is|are))?"
    r"|正确答案(?:是|为)?|答案(?:是|为)?|选项?|选择"
    r"|正しい答えは|正解は|答えは?|解答は?"
    r"|(?:(?:les|la)\s+)?(?:bonnes?\s+)?réponses?(?:\s+correctes?)?(?:\s+(?:est|sont))?"
    r"|(?:правильны[йе]\s+)?ответы?"
    r"|(?:las?\s+)?respuestas?(?:\s+correctas?)?(?:\s+(?:es|son))?)\s*[:=]?\s*(?:(?i:option)\s+)?"
)
_LETTER = r"[(\[{]?\s*([A-Z])\s*[)\]}]?"
_JOIN = r"\s*(?:,|/|&|、|和|或|と|か|\b(?:and|or|et|ou|и|или|y|o)\b)\s*"
_STOP = (
    r"(?=\s*$|\s*[:,;!?/&、。)\]}\n]|[.](?:\s|$)|\s+[-–—]|です|だ"
    r"|\s+(?:and|or|et|ou|и|или|y|o|because|since|as)\b)"
)
_LEADING = re.compile(rf"(?:{_PREFIX})?{_LETTER}{_STOP}")
_STATED = re.compile(rf"(?<!\w){_PREFIX}{_LETTER}(?!\w)")
_NEXT = re.compile(rf"{_JOIN}{_LETTER}{_STOP}")
_CYRILLIC = str.maketrans("АВСЕ", "ABCE")


def choice(text: str) -> frozenset[str]:
    """The option letters an answer settles on: none if it settles on none, several if on several.

    Read from the front (a letter, bracketed or not, after one of the six languages' openings or
    none, with every further option listed beside it), else from "… the answer is X" further on.
    """
    text = _choice_text(text)
    head = re.split(r"\n\s*\n", text)[0]
    head = head.upper() if re.fullmatch(r"[(\[]?[a-z][)\]]?[.:]?", head) else head
    head = re.sub(r"^[(\[]?[a-z][:)\]](?=\s)", lambda match: match.group().upper(), head)
    if first := _LEADING.match(head):
        letters, at = {first.group(1)}, first.end()
        while more := _NEXT.match(head, at):
            letters, at = letters | {more.group(1)}, more.end()
        return frozenset(letters | _listed(head, at) | set(_STATED.findall(head, at)))
    return frozenset(_STATED.findall(text))


def _listed(head: str, at: int) -> set[str]:
    """Letters of further options, written as the first one, which ends at `at`: "B: x, C: y".

    After a mere space it takes two to make a list: "A: hepatitis B: chronic" is one option.
    """
    mark = head[at - 1] if head[at - 1] in ")]" else head[at:].lstrip()[:1]
    if mark not in (":", ".", ")", "]"):
        return set()
    further = rf"\s*[(\[]?([A-Z])\s*{re.escape(mark)}(?=\s)"
    spaced = set(re.findall(rf"\s{further}", head[at:]))
    return spaced if len(spaced) > 1 else set(re.findall(rf"[,;\t\n]{further}", head[at:]))


def _unlettered(text: str) -> tuple[str, str]:
    """The answer without its opening, and without its letter too."""
    text = _choice_text(text).removesuffix("です")
    rest = text[re.match(rf"(?:{_PREFIX})?", text).end() :]
    return normal(rest), normal(rest[re.match(rf"(?:{_LETTER}[:.)]?\s+)?", rest).end() :])


def _choice_text(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\\boxed|[*`$\"“”]", "", text).strip()
    return re.sub(r"\b[АВСЕ]\b(?=\s*(?:[:.,)]|$))", lambda m: m.group().translate(_CYRILLIC), text)


def same_choice(prediction: str, gold: str) -> bool:
    """True if the answer is the gold option's words, or its letters are the gold's."""
    said, words = _unlettered(prediction), _unlettered(gold)[1]
    if len(words) > 1 and said[0] == words:  # one character is rather a letter than words
        return True
    letters = choice(prediction)
    return letters == choice(gold) if letters else words != "" and said[1] == words
