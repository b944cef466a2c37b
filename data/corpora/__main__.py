"""python -m data.corpora list | build TASK --source PATH --out DIR"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.catalog import CATALOG
from data.corpora import CORPORA
from data.corpora.write import build, definitions
from medsjax.errors import Parser, UserError, run_main


def main() -> None:
    args = _parser().parse_args()
    if args.command == "list":
        Console().print(_listing())
        return
    task = args.task if args.task.startswith("task") else f"task{args.task}"
    if task not in CORPORA:
        raise UserError(
            f"{args.task}: no converter makes this task; it can be {', '.join(CORPORA)}"
        )
    corpus = CORPORA[task]
    texts = [corpus.definition]
    if args.definitions:
        texts = definitions(args.definitions, corpus)
    written = build(corpus, args.source, args.out, texts)
    print(f"{task}: {CATALOG[task].dataset}; definitions: {len(texts)}; split: {corpus.split}")
    for path, n in written.files.items():
        print(f"  {path}: {n:,} instances")
    for split, name in (("train", corpus.train), ("test", corpus.test)):
        if name and args.out / split / f"{name}.json" not in written.files:
            print(f"  {split}: nothing in {args.source}, no file written")
    for reason, n in written.skipped.items():
        print(f"  skipped, {reason}: {n:,}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data.corpora",
        description="Public corpora become MedS-Ins task files. Fetch the corpus first; `list`"
        " says what and where. Its licence holds for the files made from it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the tasks, their corpora, what to fetch, how they are split")
    make = commands.add_parser("build", help="write DIR/train/… and DIR/test/… of one task")
    make.add_argument("task", help="as in `list`: task126 or 126")
    make.add_argument("--source", type=Path, required=True, help="the corpus: file or folder")
    make.add_argument("--out", type=Path, required=True, help="folder for train/ and test/")
    make.add_argument(
        "--definitions",
        type=Path,
        help="the authors' RewriteDefinitions.json, for the rewrites of the definition",
    )
    return parser


def _listing() -> Table:
    table = Table(title="Converters", show_lines=True)
    for column in ("task", "corpus", "licence", "fetch", "split"):
        table.add_column(column, overflow="fold")
    for task, corpus in CORPORA.items():
        entry = CATALOG[task]
        fetch = f"{corpus.fetch}\n{corpus.url}"
        table.add_row(task, entry.dataset, entry.licence, fetch, corpus.split)
    return table


if __name__ == "__main__":
    run_main(main)
