"""Small task files that are hard to read and to keep, for several tests."""

import gzip
import json
from pathlib import Path

from data.built import Record
from data.sources import find

SECRET = "Mrs Example"  # stands for patients' text, which no error may quote
NAME = "task12_made_up_classification.json"
INSTANCE = {"input": SECRET, "output": ["yes", "no"]}
GOOD = {"Definition": [SECRET, "again"], "Instances": [INSTANCE, INSTANCE]}
TEXTS = ["plain", "", " \n spaces\t", "病 😀 \u2028", "ends in nul\0", "\0", '"quoted"\\']


def folder(folder: Path) -> Path:
    """Two tasks in files, one of them further down."""
    write_task(folder, 100, n=9)
    write_task(
        folder / "NER",
        9,
        n=3,
        Definition=["original", "first", "", "second"],
        Categories=["Extraction"],
        Domains=["Medicine", "Biology"],
        Input_language="Chinese",
        Output_language=["Chinese", "English"],
        Source=["a", "b"],
    )
    (folder / "RewriteDefinitions.json").write_text("{}")
    return folder


def write_task(folder: Path, number: int, n: int = 5, **header) -> Path:
    """A small task file with texts that are hard to keep; its inputs tell task and place."""
    folder.mkdir(parents=True, exist_ok=True)
    instances = [
        {"input": f"task{number} in {i} {TEXTS[i % 7]}", "output": TEXTS[i % 7 : i % 7 + 2] or "x"}
        for i in range(n)
    ]
    document = {"Definition": [f"define {number}"], **header, "Instances": instances}
    path = folder / f"task{number}_made_up.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def wanted(source: Path) -> list[Record]:
    records = []
    for path in find(source):
        task = path.name.split("_")[0]
        for i, instance in enumerate(json.loads(path.read_text())["Instances"]):
            output = instance["output"]
            outputs = (output,) if isinstance(output, str) else tuple(output)
            records.append(Record(task, f"{task}-{i}", instance["input"], outputs))
    return records


def spoil(path: Path, *ordinals: int) -> None:
    """Instances without an input."""
    document = json.loads(path.read_text())
    for ordinal in ordinals:
        del document["Instances"][ordinal]["input"]
    path.write_text(json.dumps(document))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def write(folder: Path, content, name: str = NAME) -> Path:
    """`content`: bytes, JSON text, or what to write as JSON."""
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    data = data if isinstance(data, bytes) else data.encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path
