"""Any MedS-Ins task file becomes a header and a stream of instances, or one clear error.

A task file is one JSON document, plain or gzipped; the benchmark's `.jsonl` files are one document
too. Files reach gigabytes, so they are read as a stream of events. Errors name the file, the
instance (counted from 0) and the rule, and never quote the text: it may be a patient's.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ijson

from medsjax.errors import UserError

HEADER = (
    *("Contributors", "Source", "URL", "Categories", "Reasoning", "Definition"),
    *("Input_language", "Output_language", "Instruction_language", "Domains"),
    *("Positive Examples", "Negative Examples"),
)
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
MAX_DEPTH = 32  # a task file needs 4; thousands of nested brackets are an attack on memory
CHUNK = 1 << 16  # bytes read at a time

Events = Iterator[tuple[str, Any]]
_parser = ijson.get_backend("yajl2_c")


class Instance(NamedTuple):
    id: str
    input: str
    outputs: tuple[str, ...]  # gold answers, at least one; an answer may be ""


@dataclass(frozen=True)
class TaskFile:
    path: Path
    task: str  # "task12", from the file name
    n: int  # instances in the file, at least one
    header: dict[str, Any] = field(repr=False)  # those keys of HEADER that the file has

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
        """The instances in file order. Raises `UserError` at the first broken one."""
        events = _events(self.path)
        next(events)
        for _, key in events:
            event, _ = next(events)
            if key == "Instances":
                yield from self._instances(events)
                return
            _skip(event, events)

    def _instances(self, events: Events) -> Iterator[Instance]:
        ids: set[str] = set()
        for ordinal in range(self.n):
            event, value = next(events)
            place = f"{self.path}: {self.task}, instance {ordinal}"
            instance = _instance(place, self.task, ordinal, _value(event, value, events))
            if instance.id in ids:
                raise UserError(f"{place}: its id stands earlier in the file; ids must be unique")
            ids.add(instance.id)
            yield instance


def task_id(path: Path) -> str:
    """ "task12" of `task12_pubmedqa_classification.json`."""
    match = re.match(r"task\d+(?=[_.])", path.name)
    if match is None or not path.name.endswith(SUFFIXES):
        raise UserError(
            f"{path}: a task file is named task<number>_<source>_<kind>.json, .jsonl or .json.gz;"
            " rename it"
        )
    return match.group()


def read(path: str | Path) -> TaskFile:
    """The header and the number of instances: one pass over the whole document.

    Raises `UserError` where it is no task file; the instances are checked as they are read.
    """
    path = Path(path)
    task = task_id(path)
    header: dict[str, Any] = {}
    n = None
    events = _events(path)
    if next(events)[0] != "start_map":
        raise UserError(
            f"{path}: {task}: the top level must be an object with Definition and Instances"
        )
    for event, key in events:
        if event == "end_map":
            continue  # what follows the document is looked at too
        event, value = next(events)
        if key == "Instances":
            n = _count_instances(path, event, events, seen=n is not None)
        elif key in HEADER:
            header[key] = _value(event, value, events)
        else:
            _skip(event, events)
    if n is None:
        raise UserError(f"{path}: {task} has no Instances; a task file needs this list")
    file = TaskFile(path, task, n, header)
    if not file.definitions:
        raise UserError(f"{path}: {task} has no Definition; write what the task asks for")
    return file


def _count_instances(path: Path, event: str, events: Events, seen: bool) -> int:
    if seen:
        raise UserError(f"{path}: Instances stands twice; merge the two lists")
    if event != "start_array":
        raise UserError(f"{path}: Instances is {_KIND[event]}; it must be a list of objects")
    n = _count(events)
    if n == 0:
        raise UserError(f"{path}: Instances is empty; take the file out of the folder")
    return n


_KIND = {
    **{"start_map": "an object", "start_array": "a list", "string": "a string"},
    **{"number": "a number", "boolean": "true or false", "null": "null"},
}


def _instance(place: str, task: str, ordinal: int, value: Any) -> Instance:
    if not isinstance(value, dict):
        raise UserError(f"{place}: it must be an object with input and output; correct it")
    text, output, given = (value.get(key) for key in ("input", "output", "id"))
    if not isinstance(text, str):
        raise UserError(f"{place}: input is missing or no string; correct it")
    outputs = (output,) if isinstance(output, str) else output
    if not isinstance(outputs, list | tuple) or not outputs:
        raise UserError(f"{place}: output must be a string or a list with at least one; correct it")
    if not all(isinstance(answer, str) for answer in outputs):
        raise UserError(f"{place}: output holds something that is no string; correct it")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise UserError(f"{place}: id must be a string; correct it, or leave it out")
    id = f"{task}-{ordinal}" if given is None or given == "" else str(given)
    return Instance(id, text, tuple(outputs))


# Events to values. The parser has seen to it that they nest properly.


def _value(event: str, value: Any, events: Events) -> Any:
    """The JSON value that begins with this event; the depth is bounded by `_events`."""
    if event == "start_array":
        items = []
        for event, value in events:
            if event == "end_array":
                return items
            items.append(_value(event, value, events))
    if event == "start_map":
        members = {}
        for event, key in events:
            if event == "end_map":
                return members
            members[key] = _value(*next(events), events)
    return value


def _skip(event: str, events: Events) -> None:
    if event in ("start_map", "start_array"):
        _count(events)


def _count(events: Events) -> int:
    """How many values lie directly in the array that has just been opened; reads to its end."""
    n = depth = 0
    for event, _ in events:
        if event in ("end_array", "end_map"):
            if depth == 0:
                break
            depth -= 1
        elif event != "map_key":
            n += depth == 0
            depth += event in ("start_array", "start_map")
    return n


# Bytes to events.


def _events(path: Path) -> Events:
    """The document's events. Anything wrong with the file as a whole is a `UserError` here."""
    try:
        with _open(path) as file:
            reader = _Reader(path, file)
            depth = 0
            for event, value in _parser.basic_parse(reader, buf_size=CHUNK, use_float=True):
                if event in ("start_map", "start_array"):
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise UserError(
                            f"{path}: brackets nest deeper than {MAX_DEPTH}; no task file needs it"
                        )
                elif event in ("end_map", "end_array"):
                    depth -= 1
                yield event, value
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged or cut short; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a task file") from error
    except (ijson.JSONError, ValueError) as error:
        raise _not_json(path, str(error), reader.offset) from None


def _not_json(path: Path, message: str, offset: int) -> UserError:
    """The parser's message quotes the text, so only its kind is told, and where."""
    if offset == 0:
        return UserError(f"{path}: the file is empty; fetch it again")
    if "premature EOF" in message:
        return UserError(f"{path}: not JSON: it ends early, at byte {offset}; fetch it again")
    at = _locate(path, offset - CHUNK)
    if "trailing garbage" in message:
        return UserError(
            f"{path}: not one JSON document: more follows at byte {at};"
            " a task file is a single object, whatever its suffix"
        )
    return UserError(f"{path}: not JSON: error at byte {at}; correct or fetch it again")


def _locate(path: Path, fine_from: int) -> int:
    """The byte the parser stumbles over: read again, one byte at a time in the chunk at fault."""
    with _open(path) as file:
        reader = _Reader(path, file, fine_from)
        try:
            for _ in _parser.basic_parse(reader, buf_size=CHUNK, use_float=True):
                pass
        except (ijson.JSONError, ValueError):
            pass
        return max(reader.offset - 1, 0)


def _open(path: Path) -> BinaryIO:
    """The file's bytes, after the byte order mark if it has one."""
    file = (gzip.open if path.name.endswith(".gz") else open)(path, "rb")
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    return file


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:"  # an even number of backslashes before
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD]([c-fC-F][0-9a-fA-F]{2}))"
)
_TAIL = 64  # bytes looked at again, as an escape may be cut in two by the end of a chunk


class _Reader:
    """What the parser reads from: counts the bytes and watches for half characters.

    The parser turns one half of an escaped surrogate pair into "?" without a word.
    """

    def __init__(self, path: Path, file: BinaryIO, fine_from: int | None = None):
        self._path, self._file, self._fine_from = path, file, fine_from
        self._tail = b""
        self.offset = file.tell()

    def read(self, size: int) -> bytes:
        fine = self._fine_from is not None and self.offset >= self._fine_from
        chunk = self._file.read(1 if fine and size else size)
        if size and not fine:
            self._check(chunk)
        self.offset += len(chunk)
        return chunk

    def _check(self, chunk: bytes) -> None:
        text = self._tail + chunk
        begin = 8 if len(self._tail) == _TAIL else 0  # seen before, and now without what precedes
        if _SURROGATE.search(text):
            for match in _LONE.finditer(text):
                whole = match[1] or match.end() + 6 <= len(text) or not chunk
                if whole and match.start() >= begin:
                    at = self.offset - len(self._tail) + match.end() - 6
                    raise UserError(
                        f"{self._path}: half of a surrogate pair is escaped at byte {at};"
                        " write the whole character"
                    )
        self._tail = text[-_TAIL:]
