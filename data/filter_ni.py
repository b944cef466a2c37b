"""The medical tasks among Super-NaturalInstructions' 1,616, as the paper chose them.

    python -m data.filter_ni TASKS_DIR --out DIR [--domains Healthcare Medicine]

TASKS_DIR holds task files of Super-NaturalInstructions (tasks/ of its repository). The paper takes
what bears the domain Healthcare or Medicine, at any level: "Biology -> Medicine" counts. MedS-Ins
also holds tasks without them (genes, cells): those whose counterpart is known are chosen too.

DIR gets the chosen files, copied as they are under their own names, and choice.csv with every task,
why it was chosen or not, and its counterpart in MedS-Ins:
  known      its definition is word for word this one's; where several tasks share that definition,
             the file's name is this one's too
  candidate  several tasks share the definition and no name tells which; never chosen for that

No instance is left out and no test set split off: Super-NaturalInstructions splits by tasks, and
evaluates on the first hundred instances of a test task; that choice is not made here. A file whose
counterpart is scored may therefore hold items of MedS-Bench: hold it against the test files
(data.audit) before you train on it.
"""

import argparse
import csv
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from data import task_file
from data.catalog import CATALOG
from medsjax.errors import Parser, UserError, run_main

DOMAINS = ("Healthcare", "Medicine")
# Super-NaturalInstructions' number -> MedS-Ins' task. The definitions are the same word for word.
KNOWN = {
    **{179: "task1", 180: "task2", 181: "task3"},
    **{845: "task11", 846: "task12", 847: "task13", 848: "task14", 849: "task15"},
    **{1366: "task16", 1368: "task17", 1369: "task18"},
    **{1395: "task19", 1396: "task20", 1397: "task21"},
    **{1431: "task22", 1432: "task23", 1433: "task24", 1434: "task25"},
    **{1447: "task26", 1448: "task27", 1449: "task28", 1451: "task29"},
    **{1481: "task31", 1484: "task33", 1486: "task35", 1487: "task36"},  # names tell 31 from 33
    **{1495: "task37", 1645: "task38", 1646: "task39"},
}
GENES = "task31 or task33"
CANDIDATES = {
    1480: ("gene_extraction_jnlpba_dataset", GENES),
    1482: ("gene_extraction_chemprot_dataset", GENES),
}
# The names of those whose counterpart has no file name in the catalog.
UNNAMED = {
    1645: "medical_question_pair_dataset_text_classification",
    1646: "dataset_card_for_catalonia_independence_corpus_text_classification",
}
NAME = re.compile(r"task(\d+)_([^.]+)\.")


class Choice(NamedTuple):
    """A line of choice.csv."""

    file: str
    chosen: Literal["yes", "no"]
    reason: str
    medsins: str  # "task1", of candidates "task31 or task33", or ""
    relation: Literal["known", "candidate", ""]
    scored: Literal["yes", "no"]  # whether MedS-Bench takes test items from the counterpart
    domains: str
    categories: str
    instances: int


def counterpart(name: str) -> tuple[str, Literal["known", "candidate", ""]]:
    """MedS-Ins' task behind a file name of Super-NaturalInstructions, and how sure that is.

    Where number and name do not belong together (another numbering), there is none.
    """
    found = NAME.match(name)
    number, stem = (int(found[1]), found[2]) if found else (0, "")
    task = KNOWN.get(number, "")
    if task and stem == (UNNAMED.get(number) or CATALOG[task].name):
        return task, "known"
    name_there, tasks = CANDIDATES.get(number, ("", ""))
    return (tasks, "candidate") if tasks and stem == name_there else ("", "")


def choose(path: Path, wanted: tuple[str, ...], by_domain_only: bool = False) -> Choice:
    """Whether one task file is chosen, and why. Broken instances do not matter here.

    Raises `UserError` where it is no task file.
    """
    file = task_file.read(path, max_bad=sys.maxsize)
    domains = file.texts("Domains")
    medsins, relation = counterpart(path.name)
    levels = {level.strip().lower() for domain in domains for level in domain.split("->")}
    hits = [domain for domain in wanted if domain.lower() in levels]
    chosen = bool(hits) or (relation == "known" and not by_domain_only)
    if hits:
        reason = f"domain {', '.join(hits)}"
    elif chosen:
        reason = f"{medsins} of MedS-Ins, though of another domain"
    else:
        reason = f"domain {', '.join(domains) or 'not stated'}"
    scored = any(CATALOG[task].scored for task in medsins.split(" or ") if task)
    return Choice(
        file=path.name,
        chosen="yes" if chosen else "no",
        reason=reason,
        medsins=medsins,
        relation=relation,
        scored="yes" if scored else "no",
        domains="; ".join(domains),
        categories="; ".join(file.texts("Categories")),
        instances=file.n + file.bad,
    )


def find(folder: Path) -> list[Path]:
    """The task files directly in `folder`, by number."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give tasks/ of Super-NaturalInstructions")
    files = [f for f in folder.iterdir() if NAME.match(f.name) and ".json" in f.suffixes]
    if not files:
        raise UserError(f"{folder}: holds no task<number>_….json; give its folder tasks/")
    return sorted(files, key=lambda file: (int(NAME.match(file.name)[1]), file.name))


def write(choices: list[Choice], folder: Path, out: Path) -> None:
    """The chosen files and choice.csv in `out`, which appears whole, by one rename."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; give a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as aside:
        unfinished = Path(aside) / "chosen"
        unfinished.mkdir()
        for choice in choices:
            if choice.chosen == "yes":
                shutil.copyfile(folder / choice.file, unfinished / choice.file)
        with open(unfinished / "choice.csv", "w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerows([Choice._fields, *choices])
        os.rename(unfinished, out)


def tables(choices: list[Choice]) -> list[Table]:
    """The chosen and the candidates in full; all others counted by their reason."""
    rows = [c for c in choices if c.chosen == "yes"]
    n = sum(choice.instances for choice in rows)
    chosen = Table(title=f"chosen: {len(rows)} tasks, {n:,} instances", box=SIMPLE_HEAD)
    for column in ("file", "reason", "MedS-Ins", "", "scored", "instances"):
        chosen.add_column(column, justify="right" if column == "instances" else "left")
    for c in rows:
        chosen.add_row(c.file, c.reason, c.medsins, c.relation, c.scored, f"{c.instances:,}")
    rows = [c for c in choices if c.chosen == "no"]
    refused = Table(title=f"refused: {len(rows)} tasks", box=SIMPLE_HEAD)
    refused.add_column("reason")
    refused.add_column("tasks", justify="right")
    for reason, count in Counter(map(_why_not, rows)).most_common():
        refused.add_row(reason, f"{count:,}")
    return [chosen, refused]


def _why_not(choice: Choice) -> str:
    if choice.relation == "candidate":
        return f"{choice.reason}; {choice.file.partition('_')[0]} may be {choice.medsins}, or not"
    return choice.reason


def main() -> None:
    parser = Parser(
        prog="python -m data.filter_ni",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tasks", type=Path, metavar="TASKS_DIR", help="task files of Super-NaturalInstructions")
    add("--out", type=Path, required=True, help="a new folder for the chosen files and choice.csv")
    add("--domains", nargs="+", default=DOMAINS, help="default: those of the paper")
    add("--by-domain-only", action="store_true", help="leave out known counterparts without them")
    args = parser.parse_args()
    choices = []
    for path in tqdm(find(args.tasks), desc="read", unit="file", delay=2):
        try:
            choices.append(choose(path, tuple(args.domains), args.by_domain_only))
        except UserError as error:
            why = f"unreadable: {str(error).removeprefix(f'{path}: ')}"
            choices.append(Choice(path.name, "no", why, *counterpart(path.name), "no", "", "", 0))
    write(choices, args.tasks, args.out)
    for lines in tables(choices):
        Console().print(lines)
    print(f"{args.out}: choice.csv tells of all {len(choices):,} tasks")


if __name__ == "__main__":
    run_main(main)
