"""What a folder of tasks holds: which tasks, how many examples and tokens, under which licence.

    python -m data.inventory DIR [--set ins|bench] [--tokenizer FOLDER_OR_FILE] [--out DIR]

Prints tables and writes inventory.json and inventory.html: the tasks present, missing and unknown
of MedS-Ins' 122 and of the 53 scored ones, and the distributions of the paper's Fig. 2. Numbers,
names and licences only; no text of examples leaves the folder. Tokens are those of an example's
input and of its first output; definitions, shots and chat headers come on top of them in training.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data import reports
from data.build import INDEX, Built, TaskInfo, find, open_or_build
from data.catalog import BENCH_ONLY, CATALOG, TRAINING
from medsjax.errors import Parser, UserError, run_main
from medsjax.tokenizer import Tokenizer

SCORED = tuple(task for task, entry in CATALOG.items() if entry.scored)
SIDES = ("input", "output")
PERCENTILES = (50, 90, 99, 100)
NOT_STATED = "not stated"
SAMPLE = "medsjax sample"  # the Source of the bundled tasks, which only borrow the ids
PAPER_DOMAINS = {
    "Exams": 7,
    "Clinical texts": 35,
    "Academic papers": 13,
    "Medical knowledge bases": 43,
    "Daily conversations": 2,
}  # percent of MedS-Ins' tokens, from the paper's description of its Fig. 2
PAGE = Path(__file__).parent / "inventory.html.j2"
CHUNK = 256  # examples a thread takes at a time


def count_tokens(built: Built, tokenizer: Tokenizer) -> np.ndarray:
    """Tokens int32 [n, 2] of every example's input and first output.

    Each is read once, on all cores; threads suffice, as tokenizers free the interpreter lock.
    """
    tokens = np.empty((len(built), 2), np.int32)

    def count(start: int) -> int:
        stop = min(start + CHUNK, len(built))
        for i in range(start, stop):
            record = built[i]
            tokens[i] = [len(tokenizer.encode(text)) for text in (record.input, record.outputs[0])]
        return stop - start

    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tqdm(total=len(built), desc="count tokens", unit="example", delay=2) as bar,
    ):
        for done in threads.map(count, range(0, len(built), CHUNK)):
            bar.update(done)
    return tokens


def take(built: Built, tokens: np.ndarray) -> dict:
    """The inventory as inventory.json has it; `tokens` [n, 2] as `count_tokens` gives them."""
    tasks = {
        task: _row(info, tokens[info.start : info.start + info.n])
        for task, info in built.tasks.items()
    }
    rows = list(tasks.values())
    sums = ("n", "input_tokens", "output_tokens", "tokens", "rewrites")
    return {
        "set": built.set,
        "fingerprint": built.fingerprint,
        "totals": {"tasks": len(rows), **{key: sum(row[key] for row in rows) for key in sums}},
        "medsins": _coverage(built, TRAINING),
        "scored": _coverage(built, SCORED),
        "bench_only": [task for task in tasks if task in BENCH_ONLY],
        "unknown": [task for task in tasks if task not in CATALOG],
        "distributions": {
            key: distribution(rows, key) for key in ("category", "domain", "language")
        },
        "tasks": tasks,
    }


def _row(info: TaskInfo, tokens: np.ndarray) -> dict:
    """One task. What the catalog tells is beside what the file itself states."""
    stated = {
        "category": info.category,
        "domains": list(info.domains),
        "languages": list(info.languages),
        "source": info.source,
    }
    label = {
        "category": info.category or NOT_STATED,
        "domain": ", ".join(info.domains) or NOT_STATED,
        "dataset": info.source or NOT_STATED,
        "licence": NOT_STATED,
        "access": NOT_STATED,
    }
    if info.task in CATALOG:
        label = {key: getattr(CATALOG[info.task], key) for key in label}
    if info.source == SAMPLE:
        label |= {"dataset": SAMPLE, "licence": "Apache-2.0", "access": "open"}
    inputs, outputs = tokens.sum(axis=0, dtype=np.int64).tolist()
    return {
        "task": info.task,
        **label,
        "language": ", ".join(info.languages) or NOT_STATED,
        "scored": info.task in SCORED,
        "n": info.n,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "tokens": inputs + outputs,
        "input_lengths": lengths(tokens[:, 0]),
        "output_lengths": lengths(tokens[:, 1]),
        "rewrites": len(info.rewrites),
        "stated": stated,
    }


def lengths(tokens: np.ndarray) -> dict[str, int]:
    """Percentiles of lengths [n], each the length of an example: no more than p % are shorter."""
    values = np.percentile(tokens, PERCENTILES, method="inverted_cdf").tolist()
    return dict(zip(("p50", "p90", "p99", "max"), values, strict=True))


def _coverage(built: Built, wanted: Iterable[str]) -> dict:
    """Which of the wanted tasks are there, and what the others are and need."""
    keys = ("task", "category", "dataset", "licence", "access")
    missing = [CATALOG[task]._asdict() for task in wanted if task not in built.tasks]
    return {
        "present": [task for task in wanted if task in built.tasks],
        "missing": [{key: entry[key] for key in keys} for entry in missing],
    }


def distribution(rows: list[dict], key: str) -> list[dict]:
    """Tasks, examples, tokens and the share of tokens (percent) by label, most tokens first."""
    total = sum(row["tokens"] for row in rows)
    parts = {}
    for row in rows:
        part = parts.setdefault(row[key], {"label": row[key], "tasks": 0, "n": 0, "tokens": 0})
        part["tasks"] += 1
        part["n"] += row["n"]
        part["tokens"] += row["tokens"]
    for part in parts.values():
        part["share"] = 100 * part["tokens"] / max(total, 1)
    return sorted(parts.values(), key=lambda part: (-part["tokens"], part["label"]))


def render(found: dict) -> str:
    """The page, of the same bytes for the same inventory."""
    return reports.page(PAGE, **found, paper=PAPER_DOMAINS if found["set"] == "ins" else {})


def tables(found: dict) -> list[Table]:
    """Tasks, where they come from, distributions and what is missing, for a terminal."""
    total, rows = found["totals"], list(found["tasks"].values())
    title = f"{total['tasks']} tasks, {total['n']:,} examples, {total['tokens']:,} tokens"
    columns = (
        "task",
        "examples",
        "tokens",
        "input 50/90/99/max",
        "output 50/90/99/max",
        "rewrites",
    )
    spread = [
        ["/".join(map(str, row[f"{side}_lengths"].values())) for side in SIDES] for row in rows
    ]
    cells = [
        (row["task"], f"{row['n']:,}", f"{row['tokens']:,}", *lengths, str(row["rewrites"]))
        for row, lengths in zip(rows, spread, strict=True)
    ]
    made = [reports.table(title, columns, cells, right=range(1, 6))]
    columns = ("task", "category", "dataset", "licence", "access")
    cells = [[row[key] for key in columns] for row in rows]
    made.append(reports.table("where they come from", columns, cells))
    for key, parts in found["distributions"].items():
        columns = (key, "tasks", "examples", "tokens", "% of tokens")
        cells = [
            (p["label"], str(p["tasks"]), f"{p['n']:,}", f"{p['tokens']:,}", f"{p['share']:.1f}")
            for p in parts
        ]
        made.append(reports.table(f"by {key}", columns, cells, right=range(1, 5)))
    for key, name in (("medsins", "MedS-Ins"), ("scored", "the scored tasks")):
        missing, there = found[key]["missing"], len(found[key]["present"])
        title = f"{name}: {there} of {there + len(missing)} present"
        access = dict.fromkeys(entry["access"] for entry in missing)
        cells = [
            (kind, ranges(m["task"] for m in missing if m["access"] == kind)) for kind in access
        ]
        made.append(reports.table(title, ("access", "missing tasks"), cells))
    if found["unknown"]:
        made.append(reports.table("in neither list", ("tasks",), [[ranges(found["unknown"])]]))
    return made


def ranges(tasks: Iterable[str]) -> str:
    """ "1-3, 11" of task1, task2, task3, task11; tasks in the order of their numbers."""
    runs: list[list[int]] = []
    for number in (int(task.removeprefix("task")) for task in tasks):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def open_set(path: Path, set_: str | None) -> Built:
    """A built folder tells its set itself; task files do not."""
    if set_ is not None:
        return open_or_build(path, set_)
    if (path / INDEX).exists():
        return Built(path)
    find(path)
    raise UserError(f"{path}: task files do not tell their set; add --set ins or --set bench")


def main() -> None:
    parser = Parser(
        "python -m data.inventory",
        description="Which tasks a folder holds, how many examples and tokens, what is missing.",
    )
    parser.add_argument("folder", metavar="DIR", help="a built folder, or a folder of task files")
    parser.add_argument(
        "--set", choices=("ins", "bench"), help="of task files: ins: training; bench: test"
    )
    parser.add_argument(
        "--tokenizer",
        help="an HF folder or a sentencepiece model to count tokens with; default: the demo's own",
    )
    parser.add_argument(
        "--out",
        default="runs/inventory",
        help="folder for inventory.json and inventory.html (default: %(default)s)",
    )
    args = parser.parse_args()
    tokenizer = Tokenizer.load(args.tokenizer or Path(__file__).parent / "sample" / "base")
    built = open_set(Path(args.folder), args.set)
    out = reports.make(Path(args.out))
    found = {
        "folder": args.folder,
        "tokenizer": {
            "name": args.tokenizer or "data/sample/base",
            "fingerprint": tokenizer.fingerprint,
        },
        **take(built, count_tokens(built, tokenizer)),
    }
    reports.write("inventory", found, render(found), out)
    for table in tables(found):
        Console().print(table)
    print(f"written: {out}/inventory.html, {out}/inventory.json")


if __name__ == "__main__":
    run_main(main)
