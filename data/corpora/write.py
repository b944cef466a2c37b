"""Items of a public corpus become task files in MedS-Ins' 13 keys.

A converter is a `Corpus`: where the corpus is had, the official definition and file names, and
`read`, which gives the items in the corpus' order. Everything else is here, once for all of them.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from data import task_file
from data.catalog import CATALOG
from medsjax.errors import UserError

Split = Literal["train", "test"]


class Item(NamedTuple):
    split: Split
    input: str
    outputs: tuple[str, ...]  # gold answers as the benchmark writes them, at least one
    id: str = ""  # the corpus' own; "" where it has none: then task12-0, task12-1, …


class Skip(NamedTuple):
    """An entry of the corpus that gives no instance; counted by reason and reported."""

    reason: str  # "no final decision"; never text of the corpus


@dataclass(frozen=True)
class Corpus:
    """Category, dataset and licence stand in `data.catalog`, once for all tasks."""

    task: str  # "task126"
    train: str  # official file name without ".json"; "" where the authors have no training file
    test: str  # the same for the benchmark's file
    url: str
    fetch: str  # what must lie in --source
    split: str  # the rule in one line
    definition: str  # the official original
    read: Callable[[Path], Iterator[Item | Skip]]
    languages: tuple[str, ...] = ("English",)  # of input and output
    domains: tuple[str, ...] = ("Public Health", "Healthcare")


class Written(NamedTuple):
    files: dict[Path, int]  # instances in each
    skipped: Counter[str]


def nine_to_one(items: Sequence[tuple[str, tuple[str, ...], str]]) -> Iterator[Item]:
    """(input, outputs, id) -> the benchmark's split where a corpus has none of its own.

    In file order: the first int(0.9 * N) train, the rest test.
    """
    train = int(0.9 * len(items))
    for i, item in enumerate(items):
        yield Item("train" if i < train else "test", *item)


def definitions(path: Path, corpus: Corpus) -> list[str]:
    """Original and rewrites out of the authors' RewriteDefinitions.json.

    The tasks that only the benchmark has do not stand there: theirs is `corpus.definition`.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON; fetch RewriteDefinitions.json again") from error
    entry = tasks.get(corpus.task) if isinstance(tasks, dict) else []
    if entry is None:
        return [corpus.definition]
    try:
        rewrites = entry["auto_rewrite_def"]
        texts = [entry["original_def"], *rewrites]
        if not isinstance(rewrites, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: {corpus.task} needs original_def and a list auto_rewrite_def;"
            " give the authors' RewriteDefinitions.json"
        ) from error
    return texts


def build(corpus: Corpus, source: Path, out: Path, texts: Sequence[str]) -> Written:
    """Write out/train/… and out/test/…, those of the two that the source gives.

    Files appear whole: written aside, read back as task files, then renamed into place.
    """
    if not source.exists():
        raise UserError(f"{source}: there is nothing here; fetch {corpus.fetch} from {corpus.url}")
    aside = out / f".partial-{corpus.task}"
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a build that was killed
        aside.mkdir(parents=True)
        skipped = _write(corpus, corpus.read(source), aside, texts)
        written = {}
        for path in sorted(aside.glob("*/*.json"), reverse=True):  # train before test
            written[out / path.relative_to(aside)] = _count(path)
        if not written:
            raise UserError(f"{source}: gives no instance of {corpus.task}; give {corpus.fetch}")
        for path in written:
            path.parent.mkdir(exist_ok=True)
            os.replace(aside / path.relative_to(out), path)
    except OSError as error:
        raise UserError(f"{error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Written(written, skipped)


def _count(path: Path) -> int:
    """Instances of a file just written, each of them looked at."""
    return sum(1 for _ in task_file.read(path).instances())


def _write(
    corpus: Corpus, items: Iterable[Item | Skip], folder: Path, texts: Sequence[str]
) -> Counter[str]:
    names = {"train": corpus.train, "test": corpus.test}
    head = json.dumps(_header(corpus, texts), ensure_ascii=False, indent=4).removesuffix("\n}")
    skipped: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {}
        counts: Counter[str] = Counter()
        for item in tqdm(items, desc=corpus.task, unit=" items", leave=False, disable=None):
            if isinstance(item, Skip):
                skipped[item.reason] += 1
                continue
            if item.split not in files:
                path = folder / item.split / f"{names[item.split]}.json"
                path.parent.mkdir()
                file = stack.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
                files[item.split] = file
                file.write(f'{head},\n    "Instances": [')
            n = counts[item.split]
            files[item.split].write(("," if n else "") + _instance(corpus.task, n, item))
            counts[item.split] += 1
        for file in files.values():
            file.write("\n    ]\n}\n")
    return skipped


def _header(corpus: Corpus, texts: Sequence[str]) -> dict:
    entry = CATALOG[corpus.task]
    return {
        "Contributors": "medsjax",
        "Source": [entry.dataset],
        "URL": [corpus.url],
        "Categories": [entry.category],
        "Reasoning": [],
        "Definition": list(texts),
        "Input_language": list(corpus.languages),
        "Output_language": list(corpus.languages),
        "Instruction_language": ["English"],
        "Domains": list(corpus.domains),
        "Positive Examples": [],
        "Negative Examples": [],
    }


def _instance(task: str, ordinal: int, item: Item) -> str:
    """As the authors write it: an answer is a string, several are a list."""
    output = item.outputs[0] if len(item.outputs) == 1 else list(item.outputs)
    value = {"id": item.id or f"{task}-{ordinal}", "input": item.input, "output": output}
    text = json.dumps(value, ensure_ascii=False, indent=4)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{task}: {item.split} instance {ordinal} holds half of a surrogate pair;"
            " correct it in the corpus"
        ) from error
    return "\n" + " " * 8 + text.replace("\n", "\n" + " " * 8)
