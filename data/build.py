"""Task files become a TFDS folder of ArrayRecord, without TensorFlow.

    python -m data.build --set ins --source DIR --out DIR

The folder opens with `tfds.builder_from_directory(DIR).as_data_source("train")`; beside the records
lies tasks.json with what holds for a whole task. `--set ins` is training data (split "train"),
`--set bench` is test data (split "test"). The same content is built once.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data import task_file
from data.task_file import TaskFile
from medsjax.errors import UserError, run_main

Set = Literal["ins", "bench"]
SPLIT = {"ins": "train", "bench": "test"}
FORMAT = 1  # of the built folder; part of the fingerprint
SHARD = 200_000  # records in a file
INDEX = "tasks.json"


@dataclass(frozen=True)
class TaskInfo:
    task: str  # "task12"
    category: str  # of several, joined by ", "; "" where the file does not say
    domains: tuple[str, ...]
    languages: tuple[str, ...]  # of input and output
    source: str  # of several, joined by ", "
    definition: str  # the original
    rewrites: tuple[str, ...]
    n: int
    start: int  # its records are start .. start + n - 1, in the file's order


class Record(NamedTuple):
    task: str
    id: str
    input: str
    outputs: tuple[str, ...]


class Built:
    """A built folder as a sequence of `Record`, contiguous by task. Pickles as its path."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        index = _read_index(self.path)
        self.set: Set = index["set"]
        self.fingerprint: str = index["fingerprint"]
        infos = [
            TaskInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in task.items()})
            for task in index["tasks"]
        ]
        self.tasks = {info.task: info for info in infos}
        for name, size in index["files"].items():
            if not (self.path / name).is_file() or _size(self.path / name) != size:
                raise UserError(f"{path}: {name} is missing or not of {size} bytes; {_AGAIN}")
        self._records = tfds.builder_from_directory(self.path).as_data_source(SPLIT[self.set])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        raw = self._records[i]
        outputs = tuple(output.decode() for output in raw["outputs"])
        return Record(raw["task"].decode(), raw["id"].decode(), raw["input"].decode(), outputs)

    def __reduce__(self) -> tuple:
        return Built, (str(self.path.absolute()),)


_AGAIN = "delete the folder and build it again"


def _read_index(path: Path) -> dict:
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {INDEX} is missing or broken; {_AGAIN}") from error
    keys = {"format", "set", "fingerprint", "files", "tasks"}
    if not isinstance(index, dict) or index.keys() != keys or index["format"] != FORMAT:
        raise UserError(f"{path}: built in another format than {FORMAT}; {_AGAIN}")
    return index


def open_or_build(
    path: str | Path | Sequence[str | Path], set_: Set, cache: str | Path = "runs/cache"
) -> Built:
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
    fingerprint = content_fingerprint(files, set_)
    return build(files, set_, Path(cache) / f"{set_}-{fingerprint[:16]}", fingerprint)


def find(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The task files under a folder (of any depth) or several, by task number; a file is itself."""
    files: list[Path] = []
    for place in [path] if isinstance(path, str | Path) else path:
        place = Path(place)
        if place.is_dir():
            found = place.rglob("task*")
            files += [f for f in found if f.is_file() and f.name.endswith(task_file.SUFFIXES)]
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
    for file in files:
        first = by_task.setdefault(task_file.task_id(file), file)
        if first != file:
            raise UserError(f"{file}: the same task as {first}; keep one, or merge them")
    return [by_task[task] for task in sorted(by_task, key=lambda task: int(task[4:]))]


def content_fingerprint(files: Sequence[Path], set_: Set) -> str:
    """sha256 over names and contents, set and format. Not over where the files lie."""
    sums = []
    with tqdm(total=sum(map(_size, files)), desc="hash", unit="B", unit_scale=True, delay=2) as bar:
        for path in files:
            sums.append((path.name, _sha256(path, bar.update)))
    return hashlib.sha256(repr((FORMAT, set_, sorted(sums))).encode()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size


def _sha256(path: Path, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def build(files: Sequence[Path], set_: Set, out: Path, fingerprint: str = "") -> Built:
    """Write the folder `out`; it appears whole, by one rename, and only its owner may open it."""
    fingerprint = fingerprint or content_fingerprint(files, set_)
    if (out / INDEX).exists():
        return _same(out, fingerprint)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and is no built folder; give another place")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # mode 0700
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    try:
        _write(files, set_, unfinished, fingerprint)
        os.rename(unfinished, out)
    except OSError as error:
        if (out / INDEX).exists():  # another process was faster
            return _same(out, fingerprint)
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Built(out)


def _same(out: Path, fingerprint: str) -> Built:
    built = Built(out)
    if built.fingerprint != fingerprint:
        raise UserError(f"{out}: holds a build of other files; delete it or give another place")
    return built


def _sweep(out: Path) -> None:
    """Clear away what a killed build left a day ago; a younger one may still be alive."""
    unfinished = re.compile(re.escape(f".{out.name}-") + r"\w{8}")
    for left in out.parent.iterdir():
        if unfinished.fullmatch(left.name) and time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)


def _write(files: Sequence[Path], set_: Set, folder: Path, fingerprint: str) -> None:
    tasks = [task_file.read(path) for path in tqdm(files, desc="check", unit="file", delay=2)]
    split = _write_records(tasks, SPLIT[set_], folder)
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features(),
        split_infos=[split],
        filename_template=None,
        check_data=False,
    )
    starts = itertools.accumulate((task.n for task in tasks), initial=0)
    infos = [_info(task, start) for task, start in zip(tasks, starts, strict=False)]
    index = {"format": FORMAT, "set": set_, "fingerprint": fingerprint}
    index["files"] = {path.name: _size(path) for path in sorted(folder.iterdir())}
    index["tasks"] = [asdict(info) for info in infos]
    text = json.dumps(index, ensure_ascii=False, indent=1)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _features() -> tfds.features.FeaturesDict:
    texts = {key: tfds.features.Text() for key in ("task", "id", "input", "split")}
    outputs = tfds.features.Sequence(tfds.features.Text())
    return tfds.features.FeaturesDict({**texts, "outputs": outputs})


def _write_records(tasks: Sequence[TaskFile], split: str, folder: Path) -> tfds.core.SplitInfo:
    """ArrayRecord files of `SHARD` records; the writer holds no more than one."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="meds", split=split, filetype_suffix="array_record"
    )
    n = sum(task.n for task in tasks)
    lengths = [min(SHARD, n - first) for first in range(0, n, SHARD)]
    features, records, size = _features(), _records(tasks, split), 0
    with tqdm(total=n, desc="build", unit="example", delay=2) as bar:
        for shard, length in enumerate(lengths):
            path = template.sharded_filepath(shard_index=shard, num_shards=len(lengths))
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in itertools.islice(records, length):
                writer.write(features.serialize_example(record))
                bar.update()
            writer.close()
            size += os.path.getsize(path)
    return tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
    )


def _records(tasks: Sequence[TaskFile], split: str) -> Iterator[dict]:
    for task in tasks:
        for id, text, outputs in task.instances():
            yield {"task": task.task, "id": id, "input": text, "outputs": outputs, "split": split}


def _info(task: TaskFile, start: int) -> TaskInfo:
    definition, *rewrites = task.definitions
    languages = task.texts("Input_language") + task.texts("Output_language")
    return TaskInfo(
        task=task.task,
        category=", ".join(task.texts("Categories")),
        domains=task.texts("Domains"),
        languages=tuple(dict.fromkeys(languages)),
        source=", ".join(task.texts("Source")),
        definition=definition,
        rewrites=tuple(rewrites),
        n=task.n,
        start=start,
    )


def table(built: Built) -> Table:
    columns = ("task", "category", "languages", "source", "rewrites", "examples")
    lines = Table(title=f"{built.path}: {len(built)} examples of {len(built.tasks)} tasks")
    for column in columns:
        lines.add_column(column, justify="right" if column in columns[-2:] else "left")
    for info in built.tasks.values():
        cells = (info.task, info.category, ", ".join(info.languages), info.source)
        lines.add_row(*cells, str(len(info.rewrites)), str(info.n))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser("python -m data.build", description="Build a TFDS folder.")
    parser.add_argument("--set", required=True, choices=SPLIT, help="ins: training; bench: test")
    parser.add_argument("--source", required=True, help="a folder of task files, or one")
    parser.add_argument("--out", required=True, help="the folder to build")
    args = parser.parse_args()
    Console().print(table(build(find(args.source), args.set, Path(args.out))))


if __name__ == "__main__":
    run_main(main)
