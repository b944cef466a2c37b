"""What is wrong with a training and a test set, and which fix puts it right.

    python -m data.audit --train DIR --test DIR [--out DIR]

Each set is a built folder or a folder of task files; either may be left out, then the report tells
what was not checked. Prints tables and writes audit.json and audit.html: numbers, ids and hashes,
no text of examples. Finding something is no error: the exit code is 0. The fixes it names are
switched on in the training set's value, `fixes=("leaked_rewrites", …)`; see data/fixes.py.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data import fixes, reports
from data.build import Built, TaskInfo, open_or_build
from data.duplicates import NEAR, WORDS, digest
from data.scan import (
    EXACT_OTHER,
    EXACT_SAME,
    NEAR_OTHER,
    NEAR_SAME,
    Scan,
    conflicts,
    has_labels,
    is_constant,
    scan,
)
from medsjax.errors import Parser, UserError, run_main

KINDS = {  # kind of a finding -> what is counted, the fix of a training set
    "exact_in_train": ("test items whose input is in the training set", "test_duplicates"),
    "near_in_train": ("test items with a near duplicate in the training set", "test_duplicates"),
    "like_test": ("training examples that are such duplicates", "test_duplicates"),
    "exact_in_test": ("test items whose input stands twice in the test set", ""),
    "near_in_test": ("test items with a near duplicate in the test set", ""),
    "constant_answers": ("examples of tasks with one single answer", "constant_answers"),
    "conflicting_answers": ("examples with one input and several labels", "conflicting_answers"),
    "several_answers": ("examples with one input and several free answers", ""),
    "empty_answers": ("examples with an empty answer", "empty_answers"),
    "null_absent": ('examples of tasks whose answer "there is none" never occurs', ""),
    "leaked_rewrites": ("rewrites that hold the prompt which asked for them", "leaked_rewrites"),
    "chat_rewrites": ("rewrites that are other words of a chat model", "chat_rewrites"),
    "null_answers": ('rewrites that spell the answer "there is none" otherwise', "null_answers"),
    "duplicate_rewrites": ("rewrites that stand earlier in the task", "duplicate_rewrites"),
    "non_medical": ("examples of tasks that are not medical", "non_medical"),
}
PAGE = Path(__file__).parent / "audit.html.j2"
SHOWN = 5  # ids with a finding; all of them for test items that are repeated
LABELS = 5  # shares that are told
COMMON = 0.2  # an answer of this share is told of any task
NO_TEST = "duplicates between training and test, and within test: no --test"
NO_TRAIN = "duplicates between training and test; rewrites; non-medical tasks: no --train"


def audit(train: Built | None, test: Built | None, cache: str | Path = "runs/cache") -> dict:
    """The audit as audit.json has it."""
    sides = {"train": train, "test": test}
    of_train = scan(train, test, cache) if train else None
    of_test = scan(test, test, cache) if test else None
    findings = []
    for side, built, scanned in (("train", train, of_train), ("test", test, of_test)):
        if built is not None:
            findings += [f for info in built.tasks.values() for f in _task(side, info, scanned)]
    if test:
        findings += _repeated(test, of_test.items, of_train.items if train else None)
    if train:
        findings += [f for info in train.tasks.values() for f in _definitions(info)]
    for finding in findings:
        built = sides[finding["side"]]
        finding["ids"] = [i if isinstance(i, str) else built[i].id for i in finding["ids"]]
    return {
        **{side: _about(built) for side, built in sides.items()},
        "near": NEAR,
        "shingle": WORDS,
        "not_checked": [why for why, built in ((NO_TRAIN, train), (NO_TEST, test)) if not built],
        "findings": sorted(findings, key=lambda f: [*KINDS].index(f["kind"])),
        "overlap": _overlap(test, of_test, of_train) if test else [],
        "labels": _labels(train, of_train) + _labels(test, of_test),
    }


def _about(built: Built | None) -> dict | None:
    return built and {"fingerprint": built.fingerprint, "n": len(built), "tasks": len(built.tasks)}


def _finding(kind: str, side: str, info: TaskInfo, of: int, ids: Iterable) -> Iterator[dict]:
    """`ids`: indices of records, which become their ids, or strings; none: nothing was found."""
    ids = list(ids)
    if ids:
        shown = ids if kind.startswith(("exact", "near")) else ids[:SHOWN]
        fix = KINDS[kind][1] if side == "train" or kind.endswith("in_train") else ""
        about = {"kind": kind, "side": side, "task": info.task, "count": len(ids), "of": of}
        yield about | {"ids": shown, "fix": fix}


def _span(info: TaskInfo) -> slice:
    return slice(info.start, info.start + info.n)


def _task(side: str, info: TaskInfo, found: Scan) -> Iterator[dict]:
    """What one task's examples show."""
    span = _span(info)
    answers = found.answers[span]
    masks = {"empty_answers": found.empty[span]}
    if is_constant(answers):
        masks["constant_answers"] = np.ones(info.n, bool)
    several = "conflicting_answers" if has_labels(answers) else "several_answers"
    masks[several] = conflicts(found.inputs[span], answers)
    if null := fixes.null_answer(info.definition):
        absent = not np.isin([digest(null), digest(f"{null}.")], answers).any()
        masks["null_absent"] = np.full(info.n, absent)
    if side == "train":
        masks["like_test"] = found.likeness[span] > 0
        masks["non_medical"] = np.full(info.n, not fixes.keep_task(info.task, ["non_medical"]))
    for kind, mask in masks.items():
        yield from _finding(kind, side, info, info.n, info.start + np.flatnonzero(mask))


def _repeated(test: Built, in_test: np.ndarray, in_train: np.ndarray | None) -> Iterator[dict]:
    """Test items [M] that stand elsewhere too, by their likeness."""
    for place, likeness in (("train", in_train), ("test", in_test)):
        for info in test.tasks.values():
            if likeness is not None:
                exact, near = _split(likeness[_span(info)])
                for kind, mask in ((f"exact_in_{place}", exact), (f"near_in_{place}", near)):
                    numbers = info.start + np.flatnonzero(mask)
                    yield from _finding(kind, "test", info, info.n, numbers)


def _split(likeness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which are exact duplicates of something, and which near ones only: bool [n], bool [n]."""
    exact = likeness & (EXACT_SAME | EXACT_OTHER) > 0
    return exact, (likeness > 0) & ~exact


def _definitions(info: TaskInfo) -> Iterator[dict]:
    """What a task's rewrites show. Their ids are "rewrite 0", …, in the file's order."""
    texts, seen = info.rewrites, set()
    found = {
        "leaked_rewrites": [fixes.is_leaked(text) for text in texts],
        "chat_rewrites": [fixes.is_chat(text) for text in texts],
        "null_answers": [fixes.respell_null(text, info.definition) != text for text in texts],
        "duplicate_rewrites": [text in seen or bool(seen.add(text)) for text in texts],
    }
    for kind, flags in found.items():
        ids = (f"rewrite {i}" for i, flag in enumerate(flags) if flag)
        yield from _finding(kind, "train", info, len(texts), ids)


def _overlap(test: Built, of_test: Scan, of_train: Scan | None) -> list[dict]:
    """Test items of each task by where else they stand; tasks without any are left out."""
    bits = {
        "same_exact": EXACT_SAME,
        "same_near": NEAR_SAME,
        "other_exact": EXACT_OTHER,
        "other_near": NEAR_OTHER,
    }
    rows = []
    for info in test.tasks.values():
        row = {"task": info.task, "n": info.n}
        for place, scanned in (("train", of_train), ("test", of_test)):
            likeness = scanned.items[_span(info)] if scanned else np.zeros(0, np.uint8)
            for name, bit in bits.items():
                row[f"{place}_{name}"] = int(np.count_nonzero(likeness & bit))
        if any(value for key, value in row.items() if key not in ("task", "n")):
            rows.append(row)
    return rows


def _labels(built: Built | None, found: Scan | None) -> list[dict]:
    """The shares, in percent, of the commonest answers, each told by a hash.

    Of tasks with labels, and of others where one answer is as common as a label.
    """
    rows = []
    for info in built.tasks.values() if built else ():
        answers = found.answers[_span(info)]
        values, times = np.unique(answers, return_counts=True)
        if not has_labels(answers) and times.max() < max(COMMON * info.n, 2):
            continue
        order = np.argsort(-times, kind="stable")
        shares = {f"{values[i]:016x}"[:8]: 100 * float(times[i]) / info.n for i in order[:LABELS]}
        about = {"side": "train" if built.set == "ins" else "test", "task": info.task, "n": info.n}
        majority = 100 * float(times.max()) / info.n
        rows.append(about | {"answers": len(values), "majority": majority, "shares": shares})
    return rows


def summary(found: dict) -> list[dict]:
    """The findings added up by kind and side."""
    rows: dict[tuple[str, str], dict] = {}
    for finding in found["findings"]:
        key = finding["kind"], finding["side"]
        about = {"kind": key[0], "side": key[1], "what": KINDS[key[0]][0], "fix": finding["fix"]}
        row = rows.setdefault(key, about | {"count": 0, "tasks": []})
        row["count"] += finding["count"]
        row["tasks"].append(finding["task"])
    return list(rows.values())


def named(found: dict) -> list[str]:
    """The fixes that something was found for, in the order of FIXES."""
    wanted = {finding["fix"] for finding in found["findings"]}
    return [fix for fix in fixes.FIXES if fix in wanted]


def tables(found: dict) -> list[Table]:
    """The audit for a terminal."""
    cells = [
        (row["what"], row["side"], f"{row['count']:,}", _tasks(row["tasks"]), row["fix"] or "–")
        for row in summary(found)
    ]
    made = [reports.table("findings", ("what", "set", "count", "tasks", "fix"), cells, [2])]
    if found["overlap"]:
        places = [f"{place}_{task}" for place in ("train", "test") for task in ("same", "other")]
        columns = ("task", "items", *(f"{place.replace('_', ': ')} task" for place in places))
        cells = [
            (
                *(row["task"], f"{row['n']:,}"),
                *(f"{row[f'{place}_exact']:,} / {row[f'{place}_near']:,}" for place in places),
            )
            for row in found["overlap"]
        ]
        title = "test items that stand elsewhere too, exactly / nearly"
        made.append(reports.table(title, columns, cells, range(1, 6)))
    columns = ("task", "set", "examples", "answers", "majority %", "shares %")
    cells = [
        (
            *(row["task"], row["side"], f"{row['n']:,}", f"{row['answers']:,}"),
            f"{row['majority']:.1f}",
            " ".join(f"{share:.1f}" for share in row["shares"].values()),
        )
        for row in found["labels"]
    ]
    return [*made, reports.table("commonest answers", columns, cells, range(2, 5))]


def _tasks(tasks: list[str]) -> str:
    numbers = [task.removeprefix("task") for task in tasks]
    more = f" and {len(numbers) - 12} more" if len(numbers) > 12 else ""
    return ", ".join(numbers[:12]) + more


def render(found: dict) -> str:
    """The page, of the same bytes for the same audit."""
    about = {"summary": summary(found), "named": named(found), "fixes": fixes.FIXES}
    return reports.page(PAGE, **found, **about, shown=SHOWN)


def main() -> None:
    parser = Parser(
        "python -m data.audit",
        description="What is wrong with a training and a test set, and which fix puts it right.",
    )
    parser.add_argument("--train", help="MedS-Ins: a built folder, or a folder of task files")
    parser.add_argument("--test", help="MedS-Bench: the same")
    parser.add_argument(
        "--out", default="runs/audit", help="folder for audit.json and audit.html (%(default)s)"
    )
    args = parser.parse_args()
    if not (args.train or args.test):
        raise UserError("data.audit: nothing to look at; give --train DIR, --test DIR, or both")
    train = open_or_build(args.train, "ins") if args.train else None
    test = open_or_build(args.test, "bench") if args.test else None
    out = reports.make(Path(args.out))
    found = audit(train, test)
    reports.write("audit", found, render(found), out)
    for table in tables(found):
        Console().print(table)
    for missing in found["not_checked"]:
        print(f"not checked: {missing}")
    if names := named(found):
        print(f"to switch on: fixes={tuple(names)}")
    print(f"written: {out}/audit.html, {out}/audit.json")


if __name__ == "__main__":
    run_main(main)
