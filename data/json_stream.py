"""The items of `Instances` in a JSON document of any size, one after the other, or one clear error.

ijson's C parser does the reading; beside it a guard follows the bytes: how deep brackets nest, how
long one item is, whether characters are whole. The parser alone takes gigabytes for 80 KB of nested
brackets, turns half a character into "?" and yields nothing, silently, where `Instances` is no
list. Errors name the file, the byte and the rule, and never quote the text: it may be a patient's.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np

from medsjax.errors import UserError

MAX_DEPTH = 32  # a task file needs 4; thousands of nested brackets are an attack on memory
MAX_BYTES = 4 << 20  # of one instance, and of all outside Instances; real ones are under 1 MB
CHUNK = 1 << 16  # bytes read at a time

# Always with use_float: numbers over 64 bits are then errors. Without it one of 5000 digits ends
# Python with a segmentation fault (ijson 3.6.0).
_parser = ijson.get_backend("yajl2_c")


class Members(dict):
    """A JSON object that knows which of its keys stood twice."""

    twice: Set[str] = frozenset()

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            if not self.twice:
                self.twice = set()
            self.twice.add(key)
        dict.__setitem__(self, key, value)


def _members(pairs: list[tuple[str, Any]]) -> Members:
    members = Members()
    for key, value in pairs:
        members[key] = value
    return members


class Document:
    """One document, plain or gzipped, with or without a byte order mark."""

    def __init__(self, path: Path):
        self.path = path

    def items(self) -> Iterator[Any]:
        """The values in the list `Instances`; objects come as `Members`.

        Anything wrong with the file as a whole is a `UserError`, at the latest at the end. That
        Instances is a list at all shows in `members`.
        """
        try:
            with _open(self.path) as file:
                self._guard = guard = _Guard(self.path, file)
                yield from _parser.items(
                    guard, "Instances.item", buf_size=CHUNK, map_type=Members, use_float=True
                )
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{self.path}: the gzip file is damaged or cut short; fetch it again"
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}); give a task file"
            ) from error
        except (ijson.JSONError, ValueError) as error:
            raise _not_json(self.path, str(error), guard.offset) from None

    def position(self) -> int:
        """Bytes of the file read so far, as they lie on the disk."""
        return self._guard.position()

    def members(self) -> Any:
        """The document with `Instances` emptied, once `items` is spent.

        While items still come, the members that stand before them, as far as they can be told.
        """
        text = bytes(self._guard.outside) + b"]}" * self._guard.within
        try:
            return json.loads(text.decode(), object_pairs_hook=_members)
        except ValueError:  # the chunk ends amid what follows Instances
            return Members()


def _not_json(path: Path, message: str, offset: int) -> UserError:
    """Only the kind of the parser's `message` is told, and where."""
    if offset == 0:
        return UserError(f"{path}: the file is empty; fetch it again")
    kind = message.split("\n")[0]  # the rest quotes
    if "premature EOF" in kind:
        return UserError(f"{path}: not JSON: it ends early, at byte {offset}; fetch it again")
    at = _locate(path, offset - CHUNK)
    if "overflow" in kind:
        return UserError(
            f"{path}: the number before byte {at} takes over 64 bits; make it a string"
        )
    if "trailing garbage" in kind:
        return UserError(
            f"{path}: not one JSON document: more follows at byte {at};"
            " a task file is a single object, whatever its suffix"
        )
    return UserError(f"{path}: not JSON: error at byte {at}; correct or fetch it again")


def _locate(path: Path, fine_from: int) -> int:
    """The byte the parser stumbles over: read again, one byte at a time in the chunk at fault."""
    with _open(path) as file:
        parser = _parser.basic_parse_coro(ijson.sendable_list(), use_float=True)
        while True:
            offset = file.tell()
            chunk = file.read(1 if offset >= fine_from else min(CHUNK, fine_from - offset))
            try:
                parser.send(chunk)
            except (ijson.JSONError, ValueError):
                return offset
            if not chunk:
                return offset


def _open(path: Path) -> BinaryIO:
    """The file's bytes, after the byte order mark if it has one."""
    file = (gzip.open if path.name.endswith(".gz") else open)(path, "rb")
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    return file


_INSTANCES = re.compile(rb'"Instances"\s*:\s*\Z')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:"  # an even number of backslashes before
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD]([c-fC-F][0-9a-fA-F]{2}))"
)
_TAIL = 64  # bytes looked at again, as an escape may be cut in two by the end of a chunk


class _Guard:
    """What the parser reads from. It sees each chunk first and stops what would cost memory.

    What it takes for strings and brackets holds as long as the bytes are JSON; where they cease to
    be, the parser stops too.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self.offset = file.tell()
        self.outside = bytearray()  # the document but the items of Instances
        self.within = False  # the last byte was inside the brackets of Instances
        self._depth = 0
        self._in_string = self._escaped = False  # of the byte that follows
        self._since = 0  # bytes since an item or a member of the document ended
        self._tail = b""

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        if size:
            self._check_halves(chunk)
        if chunk:
            self._follow(chunk)
        self.offset += len(chunk)
        return chunk

    def position(self) -> int:
        compressed = getattr(self._file, "fileobj", None)
        return compressed.tell() if compressed else self.offset

    def _follow(self, chunk: bytes) -> None:
        at, depths = self._brackets(chunk)
        if depths.size and depths.max() > MAX_DEPTH:
            raise UserError(
                f"{self._path}: brackets nest deeper than {MAX_DEPTH}; no task file needs it"
            )
        ends = np.flatnonzero(depths <= 2)  # a document is at 1, its list of instances at 2
        self._since = len(chunk) - int(at[ends[-1]]) if ends.size else self._since + len(chunk)
        if not self.within or (depths < 2).any():
            self._keep_outside(chunk, at[ends].tolist(), depths[ends].tolist())
        for size, what in (
            (self._since, "stand in one instance or field"),
            (len(self.outside), "stand outside Instances"),
        ):
            if size > MAX_BYTES:
                raise UserError(
                    f"{self._path}: more than {MAX_BYTES >> 20} MB {what}, before byte"
                    f" {self.offset + len(chunk)}; no task file needs it: correct or split it"
                )

    def _brackets(self, chunk: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Where brackets stand outside strings, and how deep it is after each."""
        if self._escaped:
            chunk = b"_" + chunk[1:]
        codes = np.frombuffer(chunk, np.uint8)
        slash = codes == ord("\\")
        if (slash[1:] & slash[:-1]).any():
            codes = np.frombuffer(chunk.replace(rb"\\", b"__"), np.uint8)
            slash = codes == ord("\\")
        self._escaped = bool(slash[-1])
        quote = codes == ord('"')
        quote[1:] &= ~slash[:-1]
        quotes = np.flatnonzero(quote)
        kind = codes & 0xDF  # of { and [, and of } and ], the same
        at = np.flatnonzero((kind == ord("[")) | (kind == ord("]")))
        at = at[np.searchsorted(quotes, at) % 2 == self._in_string]
        self._in_string ^= bool(quotes.size % 2)
        depths = self._depth + np.cumsum(np.where(kind[at] == ord("["), 1, -1))
        if depths.size:
            self._depth = int(depths[-1])
        return at, depths

    def _keep_outside(self, chunk: bytes, at: list[int], depths: list[int]) -> None:
        """Append to `outside` what of the chunk is not in Instances' brackets."""
        start = 0
        for place, depth in zip(at, depths, strict=True):
            if self.within:
                if depth == 1:
                    self.within, start = False, place
            elif depth == 2 and chunk[place] == ord("["):
                self.outside += chunk[start : place + 1]
                start = place + 1
                recent = self.outside[-1000:-1]  # whitespace may stand before the bracket
                self.within = _INSTANCES.search(recent) is not None
        if not self.within:
            self.outside += chunk[start:]

    def _check_halves(self, chunk: bytes) -> None:
        """The parser turns one half of an escaped surrogate pair into "?" without a word."""
        text = self._tail + chunk
        begin = 8 if len(self._tail) == _TAIL else 0  # seen before, and now without what precedes
        codes = np.frombuffer(text, np.uint8)
        escapes = (codes[:-1] == ord("\\")) & (codes[1:] == ord("u"))  # what is seldom there
        if escapes.any() and _SURROGATE.search(text):
            for match in _LONE.finditer(text):
                whole = match[1] or match.end() + 6 <= len(text) or not chunk
                if whole and match.start() >= begin:
                    at = self.offset - len(self._tail) + match.end() - 6
                    raise UserError(
                        f"{self._path}: half of a surrogate pair is escaped at byte {at};"
                        " write the whole character"
                    )
        self._tail = text[-_TAIL:]
