"""A built folder, read: records by their place, and what holds for a whole task.

The folder is a TFDS data set of ArrayRecord files with `tasks.json` beside them. TFDS opens it too;
here the files are read directly, as TFDS takes 0.3 ms a record for what takes 0.02.
"""

import json
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from data.task_file import Instance
from medsjax.errors import UserError

Set = Literal["ins", "bench"]
SPLIT = {"ins": "train", "bench": "test"}
FORMAT = 2  # of the built folder; part of the fingerprint
INDEX = "tasks.json"
AGAIN = "delete the folder and build it again"
_KEYS = {"format", "set", "fingerprint", "content", "files", "shards", "tasks"}


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
    bad: int = 0  # instances of its file that were left out, in quarantine
    redefined: bool = False  # definition and rewrites come from --definitions


class Record(NamedTuple):
    task: str
    id: str
    input: str
    outputs: tuple[str, ...]


class Built:
    """A built folder as a sequence of `Record`, contiguous by task. Pickles as its path.

    Several threads may read at once.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        index = read_index(self.path)
        if index.keys() != _KEYS or index["format"] != FORMAT:
            raise UserError(f"{path}: built in another format than {FORMAT}; {AGAIN}")
        self.set: Set = index["set"]
        self.fingerprint: str = index["fingerprint"]
        self.content: str = index["content"]  # fingerprint of the task files alone
        infos = [
            TaskInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in task.items()})
            for task in index["tasks"]
        ]
        self.tasks = {info.task: info for info in infos}
        for name, size in index["files"].items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(f"{path}: {name} is missing or not of {size} bytes; {AGAIN}")
        self._shards = _Shards(self.path, index["shards"])

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: int) -> Record:
        return decode(self._shards[i])

    def __reduce__(self) -> tuple:
        return Built, (str(self.path.absolute()),)


def read_index(path: Path) -> dict:
    """What tasks.json says, of whatever format; a `UserError` where `path` is no built folder."""
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {INDEX} is missing or broken; {AGAIN}") from error
    if not isinstance(index, dict) or not {"format", "set", "fingerprint", "files"} <= index.keys():
        raise UserError(f"{path}: built in another format than {FORMAT}; {AGAIN}")
    return index


class _Shards:
    """ArrayRecord files as one sequence of bytes."""

    def __init__(self, folder: Path, lengths: Mapping[str, int]):
        self._paths = [folder / name for name in lengths]
        self._lengths = list(lengths.values())
        self._starts = [0, *accumulate(self._lengths)]
        self._readers: list[ArrayRecordReader | None] = [None] * len(self._paths)
        self._locks = [threading.Lock() for _ in self._paths]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, i: int) -> bytes:
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)}")
        shard = bisect_right(self._starts, i) - 1
        with self._locks[shard]:  # a reader has one position
            try:
                reader = self._readers[shard] or self._open(shard)
                # Fifteen times faster than reader.read([place]), which starts threads.
                reader.seek(int(i) - self._starts[shard])
                return reader.read()
            except (RuntimeError, IndexError) as error:
                raise UserError(f"{self._paths[shard]}: record {i} is damaged; {AGAIN}") from error

    def _open(self, shard: int) -> ArrayRecordReader:
        options = "readahead_buffer_size:0,max_parallelism:0"
        reader = ArrayRecordReader(str(self._paths[shard]), options)
        if reader.num_records() != self._lengths[shard]:
            raise UserError(f"{self._paths[shard]}: holds other records than were built; {AGAIN}")
        self._readers[shard] = reader
        return reader


# A record's form in the files: a serialized tf.train.Example, as TFDS' own serializer writes it.


def features() -> tfds.features.FeaturesDict:
    one = ("task", "id", "category", "input", "split")
    several = ("domains", "languages", "outputs")
    texts = {key: tfds.features.Text() for key in one}
    lists = {key: tfds.features.Sequence(tfds.features.Text()) for key in several}
    return tfds.features.FeaturesDict(texts | lists)


class Encoder:
    """The instances of one task as bytes; what holds for the whole task is set once."""

    def __init__(
        self,
        task: str,
        split: str,
        category: str,
        domains: tuple[str, ...],
        languages: tuple[str, ...],
    ):
        self._same = tf_example_pb2.Example()
        feature = self._same.features.feature
        texts = {"task": (task,), "split": (split,), "category": (category,)}
        for key, values in {**texts, "domains": domains, "languages": languages}.items():
            feature[key].bytes_list.value.extend(value.encode() for value in values)

    def __call__(self, instance: Instance) -> bytes:
        example = tf_example_pb2.Example()  # a new one: what is taken out of one is not freed
        example.CopyFrom(self._same)
        feature = example.features.feature
        feature["id"].bytes_list.value.append(instance.id.encode())
        feature["input"].bytes_list.value.append(instance.input.encode())
        outputs = [output.encode() for output in instance.outputs]
        feature["outputs"].bytes_list.value.extend(outputs)
        return example.SerializeToString(deterministic=True)


def decode(data: bytes) -> Record:
    feature = tf_example_pb2.Example.FromString(data).features.feature
    task, id, text = (feature[key].bytes_list.value[0].decode() for key in ("task", "id", "input"))
    outputs = tuple(output.decode() for output in feature["outputs"].bytes_list.value)
    return Record(task, id, text, outputs)
