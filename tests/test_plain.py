"""The report as Markdown and as CSV: the page's tables, and nothing that a reader would run."""

import csv
import io
import json
import re

import pytest

from eval import plain, report, runs
from eval.tables import Head, Row, Table, change, count, score, text
from medsjax.errors import UserError
from tests.test_report import AFTER, EVIL, put, row_of, scores, workdir

MARK = runs.Mark(61.4999, 48.25, 74.75)
TABLE = Table(
    "Some | table",
    [Head("Task"), Head("After", "step 9", True), Head("Change", number=True), Head("n")],
    [
        Row("t1", [text("One", "t1"), score(MARK), change(runs.Mark(-3.0, -5, -1)), count(1234)]),
        Row("t2", [text("=1+1"), score(runs.Mark(None)), change(runs.Mark(2.5)), count(None)]),
    ],
    [],
    "A note.",
)


def read(sheet):
    return list(csv.reader(io.StringIO(sheet)))


def written(tmp_path, folders, suffix):
    report.write(list(folders), tmp_path / f"out.{suffix}")
    return (tmp_path / f"out.{suffix}").read_text("utf-8")


def test_markdown_writes_cells_as_they_read():
    found = plain.markdown("t", "Lead.", ["Beware."], [TABLE], ["One thing."])
    assert found.split("\n\n") == [
        "# t",
        "Lead.",
        "> Beware.",
        "## Some \\| table",
        "| Task | After (step 9) | Change | n |\n| --- | ---: | ---: | --- |\n"
        "| One (t1) | 61.5 (48.2 to 74.8) | **−3.0 (−5.0 to −1.0)** | 1,234 |\n"
        "| =1+1 | – | +2.5 | – |",
        "A note.",
        "## Notes",
        "- One thing.\n",
    ]


def test_the_spreadsheet_holds_whole_numbers_and_no_formulas():
    assert read(plain.spreadsheet([TABLE])) == [
        ["table", "row", "column", "value", "low", "high"],
        ["Some | table", "t1", "Task", "One", "", ""],
        ["Some | table", "t1", "After, step 9", "61.4999", "48.25", "74.75"],
        ["Some | table", "t1", "Change", "-3.0", "-5", "-1"],
        ["Some | table", "t1", "n", "1234", "", ""],
        ["Some | table", "t2", "Task", "'=1+1", "", ""],
        ["Some | table", "t2", "Change", "2.5", "", ""],
    ]


@pytest.mark.parametrize("sign", list("=+-@"))
def test_names_that_begin_a_formula_get_a_quote(tmp_path, sign):
    put(tmp_path / "run", scores(task1=(50.0, 40.0, 60.0, 10.0)))
    content = json.loads((tmp_path / "run/scores.json").read_text())
    content["tasks"]["task1"]["dataset"] = f"{sign}cmd|' /C calc'!A0"
    put(tmp_path / "run", content)
    cells = [cell for line in read(written(tmp_path, [tmp_path / "run"], "csv")) for cell in line]
    assert f"'{sign}cmd|' /C calc'!A0" in cells
    assert not [cell for cell in cells if re.match(r"[=@+]|-(?!\d)", cell)]


def test_names_are_text_in_markdown(tmp_path):
    content = scores(**{EVIL: (50.0, 40.0, 60.0, 10.0)})
    content["tasks"][EVIL] |= {"dataset": "a|b\n*c* `d` [e](f)", "category": EVIL}
    found = written(tmp_path, [workdir(tmp_path, after=content)], "md")
    assert "<script" not in found and "a\\|b \\*c\\* \\`d\\` \\[e\\](f)" in found
    grids = re.findall(r"(?:^\|.*\n)+", found, re.M)
    for grid in grids:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in grid.splitlines()}) == 1
    assert len(grids) >= 2


def test_all_three_hold_the_same_scores(tmp_path):
    folders = [workdir(tmp_path, "one"), workdir(tmp_path, "two", after=scores(**AFTER))]
    html, markdown, sheet = (written(tmp_path, folders, s) for s in ("html", "md", "csv"))
    assert row_of(html, "task130")[9:11] == ["61.5", "48.1 to 74.9"]
    assert "| 61.5 (48.1 to 74.9) |" in markdown and "## Notes" in markdown
    cells = {tuple(line[:3]): line[3:] for line in read(sheet)}
    assert cells["Scores by task", "task130", "After, step 20"] == ["61.5", "48.1", "74.9"]
    assert cells["Final scores of all runs", "task130", "two, step 20"][0] == "61.5"
    assert cells["Scores by task", "task130", "Trivial"][0] == "10.0"
    lead = re.sub(r"<[^>]*>", "", re.search(r'<p class="lead">(.*?)</p>', html)[1])
    assert lead.split(": ", 1)[1] in markdown
    assert len(cells) == len(read(sheet))  # no place twice


def test_a_page_is_needed_for_examples_and_a_known_suffix_for_all(tmp_path):
    folder = workdir(tmp_path)
    with pytest.raises(UserError, match="--examples need a page"):
        report.write([folder], tmp_path / "out.md", examples=1)
    with pytest.raises(UserError, match=r"out\.pdf: a report ends in one of"):
        report.write([folder], tmp_path / "out.pdf")
