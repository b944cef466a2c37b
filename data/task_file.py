"""Any MedS-Ins task file becomes a header and a stream of instances, or one clear error.

A task file is one JSON document, plain or gzipped; the benchmark's `.jsonl` files are one document
too. Files reach gigabytes, so they are read as a stream (data/json_stream.py). Errors name the
file, the instance (counted from 0) and the rule, and never quote the text: it may be a patient's.

An instance that breaks a rule ends the reading, unless `max_bad` allows for some: those are left
out, counted, and handed to whoever wants to keep them. A file that is broken as a whole is refused.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.json_stream import Document, Members
from medsjax.errors import UserError

HEADER = (
    *("Contributors", "Source", "URL", "Categories", "Reasoning", "Definition"),
    *("Input_language", "Output_language", "Instruction_language", "Domains"),
    *("Positive Examples", "Negative Examples"),
)
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class Instance(NamedTuple):
    id: str
    input: str
    outputs: tuple[str, ...]  # gold answers, at least one; an answer may be ""


class Bad(NamedTuple):
    """An instance that breaks a rule."""

    ordinal: int  # its place in the file, from 0
    rule: str
    value: Any  # as it stands in the file


@dataclass(frozen=True)
class TaskFile:
    path: Path
    task: str  # "task12", from the file name
    n: int  # good instances in the file, at least one
    header: dict[str, Any] = field(repr=False)  # those keys of HEADER that the file has
    bad: int = 0  # instances left out
    max_bad: int = 0

    @property
    def definitions(self) -> tuple[str, ...]:
        """The original definition, which may be blank, then its rewrites, which may not."""
        texts = self.texts("Definition")
        return texts[:1] + tuple(text for text in texts[1:] if text.strip())

    def texts(self, key: str) -> tuple[str, ...]:
        """A header field, string or list of strings."""
        value = self.header.get(key, ())
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(x, str) for x in texts):
            raise UserError(f"{self.path}: {key} must be a string or a list of strings; correct it")
        return tuple(texts)

    def instances(self) -> Iterator[Instance]:
        """The good instances in file order."""
        return iter(Scan(self.path, self.max_bad))


def task_id(path: Path) -> str:
    """ "task12" of `task12_pubmedqa_classification.json`: the number alone tells the task.

    So the authors' typos in names (`enetity`, `verication`) and their suffixes do not matter.
    """
    match = re.match(r"task(\d+)(?=[_.])", path.name)
    if match is None or not path.name.endswith(SUFFIXES):
        raise UserError(
            f"{path}: a task file is named task<number>_<source>_<kind>.json, .jsonl or .json.gz;"
            " rename it"
        )
    return f"task{int(match[1])}"


def read(path: str | Path, max_bad: int = 0) -> TaskFile:
    """The header and the number of instances: one pass over the whole document, all looked at.

    Raises `UserError` where it is no task file, and at the first bad instance over `max_bad`.
    """
    scan = Scan(path, max_bad)
    for _ in scan:
        pass
    return scan.file()


class Scan:
    """One pass over a task file: iterate over it for its instances, then ask for its `file()`."""

    def __init__(
        self,
        path: str | Path,
        max_bad: int = 0,
        on_bad: Callable[[Bad], object] | None = None,
    ):
        self.path, self.max_bad = Path(path), max_bad
        self.task = task_id(self.path)
        self._on_bad = on_bad
        self._n = self._bad = 0
        self._document = Document(self.path)

    def __iter__(self) -> Iterator[Instance]:
        """The good instances in file order. Raises `UserError` at the first bad one too many."""
        ids, task = _Ids(), self.task
        for ordinal, value in enumerate(self._document.items()):
            found = _instance(task, ordinal, value)
            if type(found) is Instance:
                if ids.add(found.id):
                    self._n += 1
                    yield found
                    continue
                found = "its id stands earlier in the file; ids must be unique"
            self._refuse(Bad(ordinal, found, value))
        self.file()

    def _refuse(self, bad: Bad) -> None:
        self._bad += 1
        if self._bad > self.max_bad:
            more = f" ({self._bad} such, over the limit of {self.max_bad})" if self.max_bad else ""
            raise UserError(f"{self.path}: {self.task}, instance {bad.ordinal}: {bad.rule}{more}")
        if self._on_bad:
            self._on_bad(bad)

    def position(self) -> int:
        """Bytes of the file read so far."""
        return self._document.position()

    def header(self) -> dict[str, Any]:
        """Those fields of HEADER that the file has; amid the pass, those that were met already."""
        members = self._document.members()
        known = isinstance(members, Members)
        return {key: members[key] for key in HEADER if known and key in members}

    def file(self) -> TaskFile:
        """The whole file's account, after the pass."""
        _check(self.path, self.task, self._document.members(), self._n, self._bad)
        file = TaskFile(self.path, self.task, self._n, self.header(), self._bad, self.max_bad)
        if not file.definitions:
            raise UserError(f"{self.path}: {self.task} has no Definition; write what it asks for")
        return file


def _check(path: Path, task: str, members: Any, n: int, bad: int) -> None:
    """Refuse a document, its Instances emptied, that is no task file with `n` good instances."""
    if not isinstance(members, Members):
        raise UserError(
            f"{path}: {task}: the top level must be an object with Definition and Instances"
        )
    if "Instances" not in members:
        raise UserError(f"{path}: {task} has no Instances; a task file needs this list")
    if not isinstance(members["Instances"], list):
        kind = _KIND[type(members["Instances"])]
        raise UserError(f"{path}: Instances is {kind}; it must be a list of objects")
    for key in members.twice:
        if key == "Instances" or key in HEADER:
            raise UserError(f"{path}: {key} stands twice; merge the two")
    if any(key.startswith("Instances.") for key in members):  # ijson takes it for a path
        raise UserError(f"{path}: a key beside Instances begins with 'Instances.'; rename it")
    if n == 0:
        left = f": all {bad} are bad" if bad else "; take the file out of the folder"
        raise UserError(f"{path}: Instances is empty{left}")


_KIND = {
    **{Members: "an object", str: "a string", type(None): "null"},
    **{int: "a number", float: "a number", bool: "true or false"},
}


def _instance(task: str, ordinal: int, value: Any) -> Instance | str:
    """The instance, or the rule that it breaks."""
    if not isinstance(value, Members):
        return "it must be an object with input and output; correct it"
    text, output, given = value.get("input"), value.get("output"), value.get("id")
    if value.twice:
        return "a key stands twice in it; keep one"
    if not isinstance(text, str):
        return "input is missing or no string; correct it"
    outputs = (output,) if isinstance(output, str) else output
    if not isinstance(outputs, list | tuple) or not outputs:
        return "output must be a string or a list with at least one; correct it"
    for answer in outputs:
        if not isinstance(answer, str):
            return "output holds something that is no string; correct it"
    if given is None or given == "":
        return Instance(f"{task}-{ordinal}", text, tuple(outputs))
    if isinstance(given, bool) or not isinstance(given, str | int):
        return "id must be a string; correct it, or leave it out"
    return Instance(str(given), text, tuple(outputs))


class _Ids:
    """A set of strings by their 64-bit hashes: 16 bytes each at most, where a set takes over 100.

    Open addressing; 0 marks an empty slot.
    """

    def __init__(self):
        self._slots, self._n = array("q", bytes(8 << 10)), 0

    def add(self, id: str) -> bool:
        """Whether it is new."""
        if not self._put(hash(id) or 1):
            return False
        self._n += 1
        if 3 * self._n > 2 * len(self._slots):
            old, self._slots = self._slots, array("q", bytes(16 * len(self._slots)))
            for key in filter(None, old):
                self._put(key)
        return True

    def _put(self, key: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        i = key & mask
        while found := slots[i]:
            if found == key:
                return False
            i = (i + 1) & mask
        slots[i] = key
        return True
