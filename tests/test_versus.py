"""Our scores in the paper's tables: where they go, what they leave out."""

import json
import math

import pytest

from eval import plain, report, runs, versus


def run_of(tmp_path, results, source="web", name="run"):
    content = {
        "results": results,
        "primary": {task: "acc,fixed" for task in results},
        "n-samples": {task: 43 for task in results},
        "tasks": {task: {"category": "x", "source": source} for task in results},
    }
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(content))
    return runs.read(folder)


def result(official, fixed, metric="acc"):
    return {
        f"{metric},official": official,
        f"{metric}_stderr,official": 2.5,
        f"{metric}_ci95,official": [official - 5, official + 5],
        f"{metric},fixed": fixed,
    }


PICO = {"task1": result(70, 60), "task2": result(50, 45.5), "task3": result(40, 40)}


def ours(table, run="run"):
    """A run's three lines by dataset: (official, n, fixed − official) cells."""
    names = [(head.text, head.under) for head in table.heads[1:]]
    lines = [row.cells[1:] for row in table.foot if row.key.startswith(f"{run}, ")]
    return dict(zip(names, zip(*lines, strict=True), strict=True))


def test_a_number_stands_under_its_dataset_and_an_average_needs_all(tmp_path):
    (table,) = versus.tables([run_of(tmp_path, PICO)])
    assert table.title.startswith("Table 3")
    found = {name: cells for (name, _), cells in ours(table).items()}
    official, n, gap = found["PICO Intervention Ext."]
    assert official[1:4] == (50, 45, 55) and n.value == 43 and gap.value == -4.5
    assert found["ADE Drug Dose Ext."][0].value is None and found["Avg."][0].value is None
    more = {**PICO, "task29": result(90, 80), "task74": result(100, 99)}
    (table,) = versus.tables([run_of(tmp_path, more)])
    official, n, gap = list(ours(table).values())[-1]
    assert official.value == pytest.approx(70) and n.value == 5 * 43
    assert gap.value == pytest.approx(-5.1)
    assert official.high - 70 == pytest.approx(1.96 * 2.5 / math.sqrt(5)) == 70 - official.low


def test_the_paper_averages_text_without_ct_and_mri(tmp_path):
    four = {task: result(20, 20, "bleu1") for task in ("task114", "task110", "task112", "task78")}
    pooled = {"CT": result(90, 90, "bleu1"), "MRI": result(90, 90, "bleu1")}
    (table,) = versus.tables([run_of(tmp_path, {**four, **pooled})])
    found = ours(table)
    assert found["MIMIC-IV CT", "BLEU"][0].value == 90
    assert found["Avg.", "BLEU"][0].value == 20


def test_the_sample_never_stands_beside_the_paper(tmp_path):
    found = run_of(tmp_path, PICO, source="medsjax sample")
    assert versus.tables([found]) == []
    assert set(versus.radar(found)[1]["run, official"]) == {None}


def test_every_run_has_its_lines_below_the_paper_s(tmp_path):
    one = run_of(tmp_path, PICO, name="one")
    two = run_of(tmp_path, {"task1": result(30, 35)}, name="two")
    bare = run_of(tmp_path, {"task130": {"acc,fixed": 3.0}}, name="bare")
    (table,) = versus.tables([one, bare, two])
    assert [row.key.split(",")[0] for row in table.foot] == ["one"] * 3 + ["two"] * 3
    assert ours(table, "two")["PICO Participant Ext.", "Accuracy"][2].value == 5


def test_page_and_spreadsheet_show_the_paper_as_printed_and_ours(tmp_path):
    gathered = report.gather([run_of(tmp_path, PICO)])
    html = report.page(gathered)
    assert "Table 3: Information extraction" in html and "Table 4" not in html
    assert "83.72" in html and "MMedIns-Llama 3" in html  # the paper's best
    assert "50.00" in html and "−4.50" in html
    sheet = plain.spreadsheet(report.all_tables(gathered))
    place = "Table 3: Information extraction"
    assert f'{place},MMedIns-Llama 3 8B,"PICO Participant Ext., Accuracy",83.72,,\n' in sheet
    assert f'{place},"run, official","PICO Intervention Ext., Accuracy",50,45,55\n' in sheet


def test_the_radar_is_drawn_where_ours_has_a_corner(tmp_path):
    run = run_of(tmp_path, {"task130": result(60, 50), "task131": result(90, 88)})
    axes, series = versus.radar(run)
    assert series["run, official"][axes.index("Diagnosis")] == 60
    assert series["GPT-4"][axes.index("NER")] == 59.52
    assert series["GPT-4"][axes.index("Rationale")] is None
    assert "chart-radar" in report.page(report.gather([run]))


def test_skills_are_means_of_primary_scores(tmp_path):
    skills = versus.skills(run_of(tmp_path, {**PICO, "task130": result(60, 50)}).after)
    assert skills["recall"] == (runs.Mark(50), 1)
    assert skills["retrieval"][0].value == pytest.approx((60 + 45.5 + 40) / 3)
