"""What a task file must be that others can use: the rules, their remedies, and who breaks which.

They are the schema of MedS-Ins, its guideline for contributors, and what the training set's own
audit found wrong in it. Instances and rewrites are counted from 0 and told by number; no text of
an example gets into a finding. An error is what the reader refuses or the guideline forbids.
"""

import difflib
import re
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from data import fixes
from data.catalog import CATALOG, Entry
from data.json_stream import Document
from data.task_file import HEADER, SUFFIXES, Instance, Scan, task_id
from medsjax.errors import UserError


class Rule(NamedTuple):
    severity: Literal["error", "warning"]
    text: str  # "what is wrong; what to do"; {} is the finding's own word


class Finding(NamedTuple):
    rule: str  # a key of RULES
    place: str  # "Domains", "rewrite 3", "instance 12"; "" is the file
    word: str = ""


RULES = {
    "name": Rule("error", "a task file is named task<number>_<source>_<kind>.json; rename it"),
    "suffix": Rule("warning", "one JSON document, but not named .json; rename it"),
    "taken": Rule("warning", "MedS-Ins has that number for {}; take a free number, or that name"),
    "number": Rule("warning", "MedS-Ins has a task of that name as {}; take that number"),
    "document": Rule("error", "{}"),
    "missing": Rule("error", "has no {}; add what is missing, with [] where there is none"),
    "type": Rule("error", "must be {}; correct it"),
    "empty": Rule("error", "says nothing; fill it in"),
    "category": Rule("error", "not one of the categories; {}"),
    "other_category": Rule("warning", "the catalog has this task as {}; is the number right?"),
    "language": Rule("error", "no name of a language; write it in English, such as Chinese"),
    "split": Rule("error", "must be Train, Test or Train/Test; correct it"),
    "blank_rewrite": Rule("warning", "is blank and will be passed over; remove it"),
    "same_rewrite": Rule("warning", "stands earlier in Definition; remove it"),
    "leaked_rewrite": Rule("error", "holds the prompt that asked for it; write it again"),
    "chat_rewrite": Rule("warning", "reads like a chat model's reply; write it again"),
    "null_rewrite": Rule(
        "warning", 'spells the answer "there is none" otherwise than the original; take its words'
    ),
    "instance": Rule("error", "{}"),
    "no_input": Rule("error", "input is empty; fill it in, or remove the instance"),
    "no_output": Rule("error", "an output is empty; write the answer, or remove the instance"),
    "null_output": Rule(
        "error", 'spells the answer "there is none" otherwise than the definition; take its words'
    ),
    "spaces": Rule("warning", "white space at an end of input or output; strip it"),
    "output_type": Rule("warning", "output is a {} here and not in most instances; take one kind"),
    "duplicate": Rule("warning", "the same as an earlier instance; remove it"),
    "conflict": Rule("warning", "an earlier instance has this input with another output; decide"),
}
CATEGORIES = tuple(dict.fromkeys(entry.category for entry in CATALOG.values()))
SHORT = {"NER": "Named Entity Recognition", "NLI": "Natural Language Inference"}  # as in Fig. 2
SPLITS = {"Train", "Test", "Train/Test"}
LISTS = ("Positive Examples", "Negative Examples")
MAY_BE_EMPTY = ("Reasoning", *LISTS)
LANGUAGES = ("Input_language", "Output_language", "Instruction_language")
NAME = re.compile(r"task\d+_([^_.]+_[^.]+)\.")
# What names of one task differ in: the set they belong to.
SET = re.compile(r"(?<![a-z])(?:train|test)(?:_(?:set|only|train))?(?![a-z])", re.IGNORECASE)


def findings(path: Path) -> Iterator[Finding]:
    """All that is wrong with one task file. Raises `UserError` where it cannot be read at all."""
    members, are_lists = _read(path)
    task = task_of(path)
    known = CATALOG.get(task)
    yield from _name(path, known)
    if not isinstance(members, dict) or not isinstance(members.get("Instances", []), list):
        yield Finding("document", "", "an object with a list Instances is wanted; correct it")
        return
    yield from _header(members)
    if "Instances" in members and not len(are_lists):
        yield Finding("empty", "Instances")
    yield from _category(_texts(members.get("Categories")), known)
    definitions = _texts(members.get("Definition"))
    yield from _rewrites(definitions)
    if task and len(are_lists):
        yield from _instances(path, definitions)
    rare = 2 * are_lists.sum() < len(are_lists)
    for i in np.flatnonzero(are_lists == rare) if 0 < are_lists.sum() < len(are_lists) else ():
        yield Finding("output_type", f"instance {i}", "list" if rare else "string")


def _read(path: Path) -> tuple[Any, np.ndarray]:
    """The document without its instances, and bool [n]: whose output is a list."""
    document, are_lists = Document(path), bytearray()
    size = path.stat().st_size if path.is_file() else 0
    with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False) as bar:
        for value in document.items():
            are_lists.append(isinstance(value, dict) and isinstance(value.get("output"), list))
            bar.update(document.position() - bar.n)
    return document.members(), np.frombuffer(are_lists, bool)


def task_of(path: Path) -> str:
    """ "task12", or "" where the name does not tell."""
    try:
        return task_id(path)
    except UserError:
        return ""


def _name(path: Path, known: Entry | None) -> Iterator[Finding]:
    """The file's name, and the number in it beside the catalog's."""
    found = NAME.match(path.name)
    if not found or not path.name.endswith(SUFFIXES):
        yield Finding("name", "")
        return
    if ".jsonl" in path.name:
        yield Finding("suffix", "")
    name = _plain(found[1])
    if known and known.name:
        likeness = difflib.SequenceMatcher(None, name, _plain(known.name)).ratio()
        if likeness < 0.9:  # the authors' spelling differs between train and test
            yield Finding("taken", "", known.name)
    elif others := [e.task for e in CATALOG.values() if e.name and _plain(e.name) == name]:
        yield Finding("number", "", " or ".join(others))


def _plain(name: str) -> str:
    """A file's name without what tells train from test."""
    return re.sub("_+", "_", SET.sub("", name.lower())).strip("_")


def _header(members: dict[str, Any]) -> Iterator[Finding]:
    """The thirteen keys, and "Split Type" where it stands."""
    if missing := [key for key in (*HEADER, "Instances") if key not in members]:
        yield Finding("missing", "", ", ".join(missing))
    for key in (key for key in HEADER if key in members):
        value = members[key]
        if key in LISTS:
            if not isinstance(value, list):
                yield Finding("type", key, "a list")
        elif not isinstance(value, str) and not _all_strings(value):
            yield Finding("type", key, "a string or a list of strings")
        elif key not in MAY_BE_EMPTY and not _says_something(key, _texts(value)):
            yield Finding("empty", key)
    for key in LANGUAGES:
        for language in _texts(members.get(key)):
            if language.strip() and not re.fullmatch(r"[A-Z][a-z]{3,}( [A-Z(]\w+\)?)*", language):
                yield Finding("language", key)
    split = members.get("Split Type", "Train")
    if not _texts(split) or not set(_texts(split)) <= SPLITS:
        yield Finding("split", "Split Type")


def _all_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _says_something(key: str, texts: list[str]) -> bool:
    if key == "Definition":  # the first is the original
        texts = texts[:1]
    return any(text.strip() for text in texts)


def _texts(value: Any) -> list[str]:
    """A string or list of strings as a list; what is neither is told elsewhere and empty here."""
    return [value] if isinstance(value, str) else value if _all_strings(value) else []


def _category(labels: list[str], known: Entry | None) -> Iterator[Finding]:
    labels = [SHORT.get(label, label) for label in labels if label.strip()]
    for label in labels:
        if label not in CATEGORIES:
            near = difflib.get_close_matches(label.title(), CATEGORIES, 1, 0.7)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(CATEGORIES)}"
            yield Finding("category", "Categories", hint)
    if known and labels and known.category not in labels:
        yield Finding("other_category", "Categories", known.category)


def _rewrites(definitions: list[str]) -> Iterator[Finding]:
    """Definition is the original, then rewrites, counted from 0."""
    original, seen = definitions[:1], set(definitions[:1])
    for i, text in enumerate(definitions[1:]):
        place = f"rewrite {i}"
        if not text.strip():
            yield Finding("blank_rewrite", place)
        elif text in seen:
            yield Finding("same_rewrite", place)
        elif fixes.is_leaked(text):
            yield Finding("leaked_rewrite", place)
        elif fixes.is_chat(text):
            yield Finding("chat_rewrite", place)
        elif fixes.respell_null(text, original[0]) != text:
            yield Finding("null_rewrite", place)
        seen.add(text)


def _instances(path: Path, definitions: list[str]) -> Iterator[Finding]:
    """What the reader refuses, and what it takes but should not have to."""
    bad: list[tuple[int, str]] = []
    scan = Scan(path, sys.maxsize, lambda found: bad.append((found.ordinal, found.rule)))
    null = fixes.null_answer(definitions[0]) if definitions else ""
    inputs, outputs, ordinals = array("q"), array("q"), array("q")
    try:
        for n, instance in enumerate(scan):
            ordinals.append(n + len(bad))
            yield from _instance(f"instance {ordinals[-1]}", instance, null)
            inputs.append(hash(instance.input.strip()))
            outputs.append(hash(instance.outputs))
    except UserError as error:
        if definitions and ordinals:  # what is missing else has been told
            yield Finding("document", "", str(error).removeprefix(f"{path}: "))
    for ordinal, rule in bad:
        yield Finding("instance", f"instance {ordinal}", rule)
    yield from _repeated(*map(np.asarray, (inputs, outputs, ordinals)))


def _instance(place: str, instance: Instance, null: str) -> Iterator[Finding]:
    texts = (instance.input, *instance.outputs)
    if not instance.input.strip():
        yield Finding("no_input", place)
    if not all(text.strip() for text in instance.outputs):
        yield Finding("no_output", place)
    if any(text != text.strip() for text in texts if text.strip()):
        yield Finding("spaces", place)
    if null and any(_is_other_null(text.strip(), null) for text in instance.outputs):
        yield Finding("null_output", place)


def _is_other_null(text: str, null: str) -> bool:
    """Whether it is `null` in other letters; a full stop at its end makes no difference."""
    if text in (null, f"{null}.") or abs(len(text) - len(null)) > 3 or text[:1] in "\"'":
        return False
    matcher = difflib.SequenceMatcher(None, text.rstrip(".").lower(), null.lower())
    return matcher.quick_ratio() >= 0.9 and matcher.ratio() >= 0.9


def _repeated(inputs: np.ndarray, outputs: np.ndarray, ordinals: np.ndarray) -> Iterator[Finding]:
    """Hashes int64 [n] of inputs and outputs: which instances repeat an earlier one."""
    if not len(inputs):
        return
    pairs = np.stack([inputs, outputs], axis=1)
    fresh = np.zeros((2, len(inputs)), bool)  # nothing earlier has this input; this pair
    for row, (keys, axis) in zip(fresh, ((inputs, None), (pairs, 0)), strict=True):
        row[np.unique(keys, axis=axis, return_index=True)[1]] = True
    for rule, mask in (("duplicate", ~fresh[1]), ("conflict", ~fresh[0] & fresh[1])):
        for i in np.flatnonzero(mask):
            yield Finding(rule, f"instance {ordinals[i]}")
