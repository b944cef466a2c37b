"""What the audit finds can be put right here: fixes that a dataset switches on by name.

    MedSIns(fixes=("leaked_rewrites", "null_answers", "non_medical"))

Fixes of rewrites need only a task's texts; those of examples read the whole training set once
(`data/scan.py`). Nothing is repaired unasked: the paper trained on the files as they are.
"""

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from data.build import Built, TaskInfo, open_or_build
from data.catalog import CATALOG
from data.scan import conflicts, has_labels, is_constant, scan
from medsjax.errors import UserError

FORMAT = 1  # of what the fixes do; part of their identity
FIXES = {
    "leaked_rewrites": "drops rewrites that hold the prompt which asked for them",
    "chat_rewrites": "drops rewrites that are a chat model's reply, or ask for a rewrite otherwise",
    "null_answers": 'spells the answer "there is none" in every rewrite as the definition does',
    "duplicate_rewrites": "keeps one of several equal rewrites of a task",
    "non_medical": "leaves out the tasks that are not medical (task39)",
    "test_duplicates": "leaves out examples whose input is also a test item's, exactly or nearly",
    "constant_answers": "leaves out tasks in which every example has the same answer",
    "conflicting_answers": "leaves out examples with the same input and another label",
    "empty_answers": "leaves out examples whose first answer is empty",
}
OF_EXAMPLES = ("test_duplicates", "constant_answers", "conflicting_answers", "empty_answers")


def check(fixes: Iterable[str], test_path: str = "") -> None:
    """Raises `UserError` for a name that is not in FIXES, or a test set that is not named."""
    for fix in fixes:
        if fix not in FIXES:
            near = difflib.get_close_matches(fix, FIXES, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(FIXES)}"
            raise UserError(f"fixes: there is no {fix!r}; {hint}")
    if "test_duplicates" in fixes and not test_path:
        raise UserError("fixes: test_duplicates needs test_path, the folder of the test files")


def keep_task(task: str, fixes: Collection[str]) -> bool:
    """False where a fix leaves the whole task out. A task the catalog does not know is kept."""
    return "non_medical" not in fixes or task not in CATALOG or CATALOG[task].medical


def rewrites(info: TaskInfo, fixes: Collection[str]) -> tuple[str, ...]:
    """A task's rewrites as the fixes leave them, in their order."""
    texts = list(info.rewrites)
    if "leaked_rewrites" in fixes:
        texts = [text for text in texts if not is_leaked(text)]
    if "chat_rewrites" in fixes:
        texts = [text for text in texts if not is_chat(text)]
    if "null_answers" in fixes:
        texts = [respell_null(text, info.definition) for text in texts]
    return tuple(dict.fromkeys(texts) if "duplicate_rewrites" in fixes else texts)


def excluded(
    built: Built, fixes: Collection[str], test_path: str = "", cache: str | Path = "runs/cache"
) -> np.ndarray:
    """The records of `built` that the fixes leave out: indices int64, ascending.

    Reads all of it once; what it learns is kept under `cache` by the content of both sets.
    """
    if not set(OF_EXAMPLES) & set(fixes):
        return np.zeros(0, np.int64)
    against = open_or_build(test_path, "bench", cache) if "test_duplicates" in fixes else None
    found = scan(built, against, cache)
    drop = found.likeness > 0
    if "empty_answers" in fixes:
        drop |= found.empty
    for info in built.tasks.values():
        span = slice(info.start, info.start + info.n)
        answers = found.answers[span]
        if "constant_answers" in fixes and is_constant(answers):
            drop[span] = True
        if "conflicting_answers" in fixes and has_labels(answers):
            drop[span] |= conflicts(found.inputs[span], answers)
    return np.flatnonzero(drop)


def identity(fixes: Collection[str], test_path: str = "", cache: str | Path = "runs/cache") -> str:
    """What the effect of the fixes depends on beside the training set: for its fingerprint."""
    non_medical = [t for t, e in CATALOG.items() if not e.medical and "non_medical" in fixes]
    test = ""
    if "test_duplicates" in fixes:
        test = open_or_build(test_path, "bench", cache).fingerprint
    whole = (FORMAT, sorted(set(fixes)), non_medical, test)
    return hashlib.sha256(repr(whole).encode()).hexdigest()


# Rewrites that are not a task's definition. In the authors' file the first pattern finds 29, in 18
# tasks; the second and third find 30 more.

_LEAKED = re.compile(
    r"\binstruction definition\b|\binstruction directly\b"
    r"|\brewritten (?:version|definition|instruction)\b",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"\b(?:revised|rephrased|reworded) (?:definition|version)\b"
    r"|\bwithout altering its meaning\b.*\bwording\b",
    re.IGNORECASE | re.DOTALL,
)
_REPLY = re.compile(
    r"\W*(?:sure|certainly|of course|absolutely|understood|got it|okay|great)\b\s*[,!.]",
    re.IGNORECASE,
)


def is_leaked(rewrite: str) -> bool:
    """Whether the rewrite holds the prompt that asked a chat model for it, or how it answered."""
    return bool(_LEAKED.search(rewrite))


def is_chat(rewrite: str) -> bool:
    """Whether it is something else said in that chat: a reply, or the prompt in other words."""
    return not is_leaked(rewrite) and bool(_REPLY.match(rewrite) or _PROMPT.search(rewrite))


# The answer for "nothing found", between quotation marks (which apostrophes are not).

_NULL = re.compile(
    r"""(?<!\w)(?P<open>["“‘'])"""
    r"""(?P<null>(?:no|not|none|nothing|there (?:is|are) no)[ ][^"“”‘’'\n]*\w)"""
    r"""(?=[.,;!]?["”’'])""",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\b(?:output|answer|respond|reply|return|state)\w*(?: with)?:?\s*$", re.I)


def null_answer(definition: str) -> str:
    """The answer a definition asks for where there is nothing to find, or ""."""
    for match in _NULL.finditer(definition):
        if _ASKED.search(definition, 0, match.start()):
            return match["null"]
    return ""


def respell_null(rewrite: str, definition: str) -> str:
    """The rewrite with the null answer in the words of the definition; other texts as they are."""
    null = null_answer(definition)
    return _NULL.sub(lambda match: match["open"] + null, rewrite) if null else rewrite
