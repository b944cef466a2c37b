"""Our scores in the paper's tables: where they go, what they leave out."""

import json

import pytest

from eval import report, runs, versus


def evaluation(tmp_path, results, source="web"):
    content = {
        "results": results,
        "primary": {task: "acc,fixed" for task in results},
        "n-samples": {task: 43 for task in results},
        "tasks": {task: {"category": "x", "source": source} for task in results},
    }
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(content))
    return runs.read(folder).after


def result(official, fixed, metric="acc"):
    return {
        f"{metric},official": official,
        f"{metric}_ci95,official": [official - 5, official + 5],
        f"{metric},fixed": fixed,
    }


PICO = {"task1": result(70, 60), "task2": result(50, 45.5), "task3": result(40, 40)}


def test_a_number_stands_under_its_dataset_and_an_average_needs_all(tmp_path):
    (table,) = versus.tables(evaluation(tmp_path, PICO))
    assert table.number == 3
    ours = dict(zip([c.dataset for c in table.columns], table.ours, strict=True))
    assert ours["PICO Intervention Ext."] == versus.Ours(runs.Mark(50, 45, 55), 43, -4.5)
    assert ours["ADE Drug Dose Ext."] is None and ours["Avg."] is None
    more = {**PICO, "task29": result(90, 80), "task74": result(100, 99)}
    (table,) = versus.tables(evaluation(tmp_path, more))
    assert table.ours[-1].mark.value == pytest.approx(70)
    assert table.ours[-1].fixed == pytest.approx(-5.1)
    assert table.ours[-1].n == 5 * 43


def test_the_paper_averages_text_without_ct_and_mri(tmp_path):
    four = {task: result(20, 20, "bleu1") for task in ("task114", "task110", "task112", "task78")}
    pooled = {"CT": result(90, 90, "bleu1"), "MRI": result(90, 90, "bleu1")}
    (table,) = versus.tables(evaluation(tmp_path, {**four, **pooled}))
    by_dataset = dict(zip([c[0::3] for c in table.columns], table.ours, strict=True))
    assert by_dataset["MIMIC-IV CT", "bleu1"].mark.value == 90
    assert by_dataset["Avg.", "bleu1"].mark.value == 20


def test_the_sample_never_stands_beside_the_paper(tmp_path):
    found = evaluation(tmp_path, PICO, source="medsjax sample")
    assert versus.tables(found) == []
    assert set(versus.radar(found)[1]["this run"]) == {None}


def test_the_page_shows_the_paper_as_printed_and_ours(tmp_path):
    evaluation(tmp_path, PICO)
    html = report.render([runs.read(tmp_path / "run")])
    assert "Table 3: Information extraction" in html and "Table 4" not in html
    assert "83.72" in html and "MMedIns-Llama 3" in html  # the paper's best
    assert "50.00" in html and "fixed −4.5" in html


def test_the_radar_is_drawn_where_ours_has_a_corner(tmp_path):
    labels = {"task130": result(60, 50), "task131": result(90, 88)}
    axes, series = versus.radar(evaluation(tmp_path, labels))
    assert series["this run"][axes.index("Diagnosis")] == 60
    assert series["GPT-4"][axes.index("NER")] == 59.52
    assert series["GPT-4"][axes.index("Rationale")] is None
    assert "chart-radar" in report.render([runs.read(tmp_path / "run")])


def test_skills_are_means_of_primary_scores(tmp_path):
    found = evaluation(tmp_path, {**PICO, "task130": result(60, 50)})
    skills = versus.skills(found)
    assert skills["recall"] == (runs.Mark(50), 1)
    assert skills["retrieval"][0].value == pytest.approx((60 + 45.5 + 40) / 3)
