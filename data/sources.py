"""Which task files a build is made of, and their fingerprint."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data import task_file
from data.built import FORMAT, Set
from medsjax.errors import UserError

Places = str | Path | Sequence[str | Path]
# The authors mark some files by their names: task131_SEER_text_classification_train.json and
# task124_pubmedqa_train_set.json; task122_medmcqa_test_set.json, task51_…_test_only.jsonl and
# task16_test_healthfact_….json. Most bear no mark; task132_…_medical_test_train.json is training.
_TRAIN = re.compile(r"_train(_set)?\.json")
_TEST = re.compile(r"^task\d+_test_|_test(_set|_only)?\.json")


def find(path: Places) -> list[Path]:
    """The task files under a folder (of any depth) or several, by task number; a file is itself."""
    files: list[Path] = []
    for place in [path] if isinstance(path, str | Path) else path:
        place = Path(place)
        if place.is_dir():
            found = [f for f in place.rglob("task*") if f.name.endswith(task_file.SUFFIXES)]
            files += [f for f in found if f.is_file()]
            folders = {part for f in found for part in f.relative_to(place).parts[:-1]}
            if {"train", "test"} <= folders:
                raise UserError(f"{place}: holds a folder train and a folder test; give one")
        elif place.exists():
            files.append(place)
        else:
            raise UserError(
                f"{place}: there is nothing here; a path may be a built folder, a folder of task"
                " files, or a task file"
            )
    if not files:
        raise UserError(f"{path}: holds no task files (task<number>_<source>_<kind>.json)")
    by_task: dict[str, Path] = {}
    for file in sorted(files):
        first = by_task.setdefault(task_file.task_id(file), file)
        if first != file:
            both = {_mark(first), _mark(file)} == {"ins", "bench"}
            remedy = "train and test go into two folders" if both else "keep one, or merge them"
            raise UserError(f"{file}: the same task as {first}; {remedy}")
    return [by_task[task] for task in sorted(by_task, key=lambda task: int(task[4:]))]


def _mark(file: Path) -> Set | None:
    """The set that a file's name tells, if it does."""
    if _TRAIN.search(file.name):
        return "ins"
    return "bench" if _TEST.search(file.name) else None


def check_set(files: Sequence[Path], set_: Set) -> None:
    """Refuse files that are named as the other set's: no example may be trained on and tested."""
    kind = {"ins": "training", "bench": "test"}
    other = [file for file in files if _mark(file) not in (None, set_)]
    if other:
        mixed = "train and test names are mixed: " * any(_mark(file) == set_ for file in files)
        raise UserError(
            f"{other[0].parent}: {mixed}{len(other)} of {len(files)} files are not named as"
            f" {kind[set_]} files, {other[0].name} for one; give --set {set_} others, or move them"
        )


def from_hub(source: str) -> Path:
    """`source` where it is here, or else the task files of the hub's data set of that name."""
    if os.path.exists(source) or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return Path(source)
    import huggingface_hub

    patterns = ["task*", "*/task*"]
    try:
        return Path(
            huggingface_hub.snapshot_download(source, repo_type="dataset", allow_patterns=patterns)
        )
    except Exception as error:  # the hub's client raises many kinds; the user needs one line
        raise UserError(
            f"{source}: no such folder, and the hub did not give a data set of this name"
            f" ({type(error).__name__}); check the name, the network or HF_TOKEN"
        ) from None


class Definitions(NamedTuple):
    original: str
    rewrites: tuple[str, ...]


def read_definitions(path: str | Path) -> dict[str, Definitions]:
    """The authors' RewriteDefinitions.json: task id -> its definitions; blank rewrites dropped."""
    try:
        content = json.loads(Path(path).read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # fails on halves of characters
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8; give RewriteDefinitions.json") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must be an object, task id to definitions, and not empty")
    found = {}
    for task, value in content.items():
        original, rewrites = _definitions(value)
        if not re.fullmatch(r"task\d+", task) or original is None:
            raise UserError(
                f"{path}: entry {len(found)} of {len(content)} is no"
                ' "task<number>": {"original_def": text, "auto_rewrite_def": [texts]}; correct it'
            )
        found[task] = Definitions(original, rewrites)
    return found


def _definitions(value: object) -> tuple[str | None, tuple[str, ...]]:
    if not isinstance(value, dict) or not isinstance(value.get("original_def"), str):
        return None, ()
    rewrites = value.get("auto_rewrite_def", [])
    if not isinstance(rewrites, list) or not all(isinstance(text, str) for text in rewrites):
        return None, ()
    return value["original_def"], tuple(text for text in rewrites if text.strip())


def content_fingerprint(files: Sequence[Path], set_: Set, cache: Path | None = None) -> str:
    """sha256 over names and contents, set and format. Not over where the files lie.

    With `cache`, files that have not changed since they were last read are not read again.
    """
    known = _Known(cache / "hashes.json" if cache else None)
    sums = []
    with tqdm(total=sum(map(_size, files)), desc="hash", unit="B", unit_scale=True, delay=2) as bar:
        for path in files:
            sums.append((path.name, known.sum(path, bar.update)))
    known.save()
    return hashlib.sha256(repr((FORMAT, set_, sorted(sums))).encode()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size


class _Known:
    """Files' sums by place, size and time of change, kept in a file between runs."""

    def __init__(self, path: Path | None):
        self._path, self._sums, self._new = path, {}, False
        with contextlib.suppress(OSError, ValueError, TypeError):  # not there, or broken: anew
            self._sums = dict(json.loads(path.read_bytes())) if path else {}

    def sum(self, path: Path, advance: Callable[[int], object]) -> str:
        stat = path.stat()
        key = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        if key in self._sums:
            advance(stat.st_size)
            return self._sums[key]
        found = sha256(path, advance)
        if time.time() - stat.st_ctime > 2:  # else it may change once more in the same tick
            self._sums[key], self._new = found, True
        return found

    def save(self) -> None:
        if not self._path or not self._new:
            return
        with contextlib.suppress(OSError):  # it only saves time
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            unfinished.write_text(json.dumps(self._sums))
            os.replace(unfinished, self._path)


def sha256(path: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
