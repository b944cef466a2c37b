"""Is this a task file that others can use? Every problem of every file, in a line each.

    python -m data.lint FILE_OR_FOLDER …

For those who contribute a task: the schema of MedS-Ins, its guideline's rules, and what the
training set's own audit found wrong in it. Prints `file: task, place: rule; remedy`, the first few
of each rule, and a table. Instances are counted from 0 and told by number: no text is printed.

Exit code 0: no error (there may be warnings); 1: errors; 2: a file that cannot be read.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.lint_rules import RULES, Finding, findings, task_of
from data.task_file import SUFFIXES
from medsjax.errors import Parser, UserError, run_main

SHOWN = 3  # findings of a rule in a file that are told one by one


class Report:
    """The findings of one file: all are counted, the first of each rule are kept."""

    def __init__(self, path: Path):
        self.path, self.unreadable = path, ""
        self.kept: dict[str, list[Finding]] = {}
        self.counts: dict[str, int] = {}
        try:
            for finding in findings(path):
                kept = self.kept.setdefault(finding.rule, [])
                kept.extend([finding] if len(kept) < SHOWN else [])
                self.counts[finding.rule] = self.counts.get(finding.rule, 0) + 1
        except UserError as error:
            self.unreadable = str(error)

    def count(self, severity: str) -> int:
        return sum(n for rule, n in self.counts.items() if RULES[rule].severity == severity)

    def lines(self) -> Iterator[str]:
        """Errors first; a rule with more findings than are told ends with their number."""
        if self.unreadable:
            yield f"unreadable {self.unreadable}"
        file = f"{self.path}: {task_of(self.path) or 'no task'}"
        for rule in sorted(self.kept, key=lambda rule: RULES[rule].severity):
            severity, text = RULES[rule]
            for finding in self.kept[rule]:
                place = f", {finding.place}" if finding.place else ""
                yield f"{severity} {file}{place}: {text.format(finding.word)}"
            if (more := self.counts[rule] - len(self.kept[rule])) > 0:
                yield f"{severity} {file}: … and {more:,} more of the last kind"


def find(places: Iterable[str]) -> list[Path]:
    """The files named, and those under the folders named that look like task files."""
    files: list[Path] = []
    for place in map(Path, places):
        inside = sorted(place.rglob("task*")) if place.is_dir() else []
        files += [path for path in inside if path.is_file() and path.name.endswith(SUFFIXES)]
        if place.is_dir() and not files:
            raise UserError(f"{place}: holds no task files (task<number>_<source>_<kind>.json)")
        if not place.is_dir():
            files.append(place)
    return files


def table(reports: list[Report]) -> Table:
    lines = Table(box=SIMPLE_HEAD)
    lines.add_column("file")
    for column in ("errors", "warnings"):
        lines.add_column(column, justify="right")
    for report in reports:
        counts = [f"{report.count(severity):,}" for severity in ("error", "warning")]
        lines.add_row(
            Text(report.path.name), *(["unreadable", ""] if report.unreadable else counts)
        )
    return lines


def main() -> None:
    rules = "\n".join(
        f"  {rule.severity:8} {rule.text}" for rule in RULES.values() if rule.text != "{}"
    )
    parser = Parser(
        prog="python -m data.lint",
        description=__doc__,
        epilog=f"Rules, each with its remedy:\n{rules}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="task files, or folders of them")
    reports = []
    for path in find(parser.parse_args().files):
        reports.append(Report(path))
        for line in reports[-1].lines():
            print(line)
    Console().print(table(reports))
    if any(report.unreadable for report in reports):
        sys.exit(2)
    sys.exit(1 if any(report.count("error") for report in reports) else 0)


if __name__ == "__main__":
    run_main(main)
