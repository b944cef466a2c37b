"""Task files become a TFDS folder of ArrayRecord, without TensorFlow.

    python -m data.build --set ins --source DIR_OR_HUB_NAME --out DIR
    python -m data.build --delete DIR

The folder opens with `tfds.builder_from_directory(DIR).as_data_source("train")`; beside the records
lies tasks.json with what holds for a whole task. `--set ins` is training data (split "train"),
`--set bench` is test data (split "test"). The same content is built once.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import tensorflow_datasets as tfds
from rich.console import Console
from rich.table import Table

from data import shards, sources
from data.built import FORMAT, INDEX, SPLIT, Built, Record, Set, TaskInfo, features, read_index
from data.sources import Definitions, Places, content_fingerprint, find
from medsjax.errors import Parser, UserError, run_main

__all__ = ["INDEX", "Built", "Record", "TaskInfo", "build", "find", "open_or_build"]
CACHE = "runs/cache"


def open_or_build(path: Places, set_: Set, cache: str | Path = CACHE) -> Built:
    """`path`: a built folder, a folder of task files, a task file, or several of these last two.

    Task files are built once under `cache`. Raises `UserError` for a folder built as the other set.
    """
    if isinstance(path, str | Path) and (Path(path) / INDEX).exists():
        built = Built(path)
        if built.set != set_:
            raise UserError(
                f"{path}: built with --set {built.set}, used as {set_};"
                " training and test files must not be exchanged: give the other folder"
            )
        return built
    files = find(path)
    content = content_fingerprint(files, set_, Path(cache))
    return build(files, set_, Path(cache) / f"{set_}-{content[:16]}", content)


def build(
    files: Sequence[Path],
    set_: Set,
    out: Path,
    content: str = "",
    definitions: Mapping[str, Definitions] | None = None,
    max_bad: int = 0,
) -> Built:
    """Write the folder `out`; it appears whole, by one rename, and only its owner may open it.

    `content`: the files' `content_fingerprint`, where it is known. `definitions` replace those of
    the files, for the tasks that they hold. Up to `max_bad` bad instances are left out.
    """
    sources.check_set(files, set_)
    content = content or content_fingerprint(files, set_)
    fingerprint = _fingerprint(content, definitions)
    if (out / INDEX).exists():
        return _same(out, fingerprint, max_bad)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and is no built folder; give another place")
    try:
        with _unfinished(out) as folder:
            written = shards.write(files, SPLIT[set_], folder, max_bad)
            index = {"set": set_, "fingerprint": fingerprint, "content": content}
            _finish(folder, written, index, definitions or {})
            os.rename(folder, out)
    except OSError as error:
        if (out / INDEX).exists():  # another process was faster
            return _same(out, fingerprint, max_bad)
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); give another place, or make room"
        ) from error
    return Built(out)


def _fingerprint(content: str, definitions: Mapping[str, Definitions] | None) -> str:
    """Of all that a build holds. What is bad in the files follows from their content."""
    if definitions is None:
        return content
    return hashlib.sha256(repr((content, sorted(definitions.items()))).encode()).hexdigest()


def _same(out: Path, fingerprint: str, max_bad: int) -> Built:
    built = Built(out)
    if built.fingerprint != fingerprint:
        raise UserError(f"{out}: holds a build of other files; delete it or give another place")
    bad = sum(info.bad for info in built.tasks.values())
    if bad > max_bad:
        raise UserError(f"{out}: was built without {bad} bad instances; --max-bad allows {max_bad}")
    return built


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A folder of mode 0700 beside `out`, to be renamed; what is not renamed goes at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(out.parent)  # nobody sweeps between the next folder's making and its locking
    try:
        _sweep(out)
        name = f".{out.name}.building-{socket.gethostname()}-"
        folder = Path(tempfile.mkdtemp(prefix=name, dir=out.parent))
        alive = _lock(folder)
    finally:
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


def _lock(folder: Path) -> int:
    """Wait for the folder's lock; it is held until the handle is closed or its process ends."""
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def _sweep(out: Path) -> None:
    """Clear away what killed builds have left."""
    unfinished = re.compile(re.escape(f".{out.name}.building-") + r"(.*)-\w{8}")
    for left in out.parent.iterdir():
        match = unfinished.fullmatch(left.name)
        if match and _dead(left, match[1]):
            shutil.rmtree(left, ignore_errors=True)


def _dead(unfinished: Path, host: str) -> bool:
    """Whether no process builds there any more; where locks cannot tell, after a day."""
    old = time.time() - unfinished.stat().st_mtime > 86_400
    if host != socket.gethostname():
        return old
    handle = os.open(unfinished, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return old
    finally:
        os.close(handle)


def _finish(
    folder: Path,
    written: Sequence[shards.Written],
    index: Mapping[str, str],
    definitions: Mapping[str, Definitions],
) -> None:
    """Give the shards TFDS' names and write its metadata, then tasks.json."""
    split = SPLIT[index["set"]]
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="meds", split=split, filetype_suffix="array_record"
    )
    parts = [shard for task in written for shard in task.shards]
    lengths, size = {}, 0
    for i, (name, n) in enumerate(parts):
        path = Path(template.sharded_filepath(shard_index=i, num_shards=len(parts)))
        os.rename(folder / name, path)
        lengths[path.name] = n
        size += path.stat().st_size
    info = tfds.core.SplitInfo(
        name=split, shard_lengths=[*lengths.values()], num_bytes=size, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(),
        split_infos=[info],
        filename_template=None,
        check_data=False,
    )
    infos, start = [], 0
    for task in written:
        infos.append(_placed(task.info, start, definitions.get(task.info.task)))
        start += task.info.n
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    tasks = [asdict(info) for info in infos]
    content = {"format": FORMAT, **index, "files": files, "shards": lengths, "tasks": tasks}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _placed(info: TaskInfo, start: int, own: Definitions | None) -> TaskInfo:
    if own is None:
        return replace(info, start=start)
    definition, rewrites = own
    return replace(info, start=start, definition=definition, rewrites=rewrites, redefined=True)


def delete(folder: Path, cache: Path = Path(CACHE)) -> list[Path]:
    """Delete a build and what `cache` holds of the same task files; the folders that are gone.

    Raises `UserError` for a folder that is no build, or that holds more than builds write.
    """
    index = read_index(folder)
    gone = [folder]
    for path in cache.glob(f"{index['set']}-*/{INDEX}"):
        with contextlib.suppress(UserError):
            other = read_index(path.parent)
            keys = {"content", "fingerprint"}
            same = {other.get(k) for k in keys} & {index.get(k) for k in keys} - {None}
            if same and not path.parent.samefile(folder):
                gone.append(path.parent)
    for path in gone:
        strange = {file.name for file in path.iterdir()} - {INDEX, *read_index(path)["files"]}
        if strange:
            raise UserError(f"{path}: holds {min(strange)}, which no build writes; move it away")
    for path in gone:
        for name in [*read_index(path)["files"], INDEX]:  # last: what tells that it is a build
            (path / name).unlink(missing_ok=True)
        path.rmdir()
    return gone


def table(built: Built) -> Table:
    columns = ("task", "category", "languages", "source", "rewrites", "examples", "left out")
    lines = Table(title=f"{built.path}: {len(built)} examples of {len(built.tasks)} tasks")
    for column in columns:
        lines.add_column(column, justify="right" if column in columns[-3:] else "left")
    for info in built.tasks.values():
        cells = (info.task, info.category, ", ".join(info.languages), info.source)
        lines.add_row(*cells, *map(str, (len(info.rewrites), info.n, info.bad)))
    return lines


def notes(built: Built) -> Iterator[str]:
    """What the table leaves open, a line each."""
    bad = sum(info.bad for info in built.tasks.values())
    if bad:
        yield f"{bad} bad instances left out; they and why: {built.path / shards.QUARANTINE}"
    own = [info.task for info in built.tasks.values() if not info.redefined]
    if len(own) < len(built.tasks):
        kept = f"; {len(own)} tasks it lacks keep their own: {', '.join(own)}" if own else ""
        yield f"definitions replaced in {len(built.tasks) - len(own)} tasks{kept}"


def main() -> None:
    parser = Parser(
        "python -m data.build",
        description="Build a TFDS folder from MedS-Ins or MedS-Bench task files.",
        epilog="The folder keeps the texts of the task files, and their licences: only you may open"
        " it (mode 0700). --delete removes it again.",
    )
    parser.add_argument("--set", choices=SPLIT, help="ins: training files; bench: test files")
    parser.add_argument(
        "--source", help="a folder of task files, one file, or a data set's name on the hub"
    )
    parser.add_argument("--out", help="the folder to build")
    parser.add_argument(
        "--definitions", help="the authors' RewriteDefinitions.json: replaces the files' own"
    )
    parser.add_argument(
        "--max-bad",
        type=int,
        default=0,
        help=f"bad instances to leave out, at most; they go to OUT/{shards.QUARANTINE}"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--delete", metavar="DIR", help=f"delete this build, and its copy in {CACHE}"
    )
    args = parser.parse_args()
    if args.delete:
        for path in delete(Path(args.delete)):
            print(f"deleted {path}")
        print(
            "not touched: the task files themselves, a hub download in its own cache, and"
            " runs/cache/lengths, which holds no text"
        )
        return
    if args.max_bad < 0:
        parser.error(f"--max-bad {args.max_bad}: give 0 or more")
    if not (args.set and args.source and args.out):
        parser.error("give --set, --source and --out, or --delete")
    definitions = sources.read_definitions(args.definitions) if args.definitions else None
    files = find(sources.from_hub(args.source))
    built = build(files, args.set, Path(args.out), "", definitions, args.max_bad)
    console = Console()
    console.print(table(built))
    for note in notes(built):
        console.print(note, highlight=False)


if __name__ == "__main__":
    run_main(main)
