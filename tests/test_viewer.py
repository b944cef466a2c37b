"""The sample viewer: the prompt as the model got it, and what each scorer made of the answer."""

import json
from dataclasses import replace

import pytest

from eval import report, runs, viewer
from eval.tasks import TASKS
from medsjax.errors import UserError
from tests import test_medsbench
from tests.test_medsbench import GOLDS, TOKENIZER, Oracle, evaluate, question
from tests.test_report import EVIL, text_of

bench = test_medsbench.bench
WORDS = {
    ("task57", "Answer: A", "The right answer is A: x"): (
        "accuracy 100.0",
        "accuracy 100.0",  # its first letter
        "accuracy 0.0, exact match 0.0",
    ),
    ("task130", "", "The diagnosis result is Croup."): (
        "accuracy 0.0",
        "its scorer dies here; counted as wrong: AttributeError: 'float' object has no attribute",
        "accuracy 0.0",
    ),
    ("task46", "", "A fever."): (
        "BLEU-1 0.0, ROUGE-1 0.0, ROUGE-L 0.0",
        "passed over, not counted",
        "BLEU-1 0.0",
    ),
    ("task100", " ", "A fever."): (
        "BLEU-1 0.0",
        "not compared, counted as 0",
        "BLEU-1 0.0",
    ),
    ("task126", "a, c.", "a, b."): (
        "1 right, 1 wrong, 1 missed",
        "2 right, 0 wrong, 0 missed",  # of the last entity it drops the last letter
        "F1 50.0, precision 50.0, recall 50.0",
    ),
    ("task106", "Cellular energetics", "Cellular energetics, Inducing angiogenesis"): (
        "1 right, 0 wrong, 1 missed",
        "1 right, 0 wrong, 1 missed",
        "accuracy 0.0",
    ),
}


@pytest.mark.parametrize("task, answer, gold", WORDS)
def test_each_scorer_says_what_it_made_of_an_answer(task, answer, gold):
    said = viewer.judged(TASKS[task], answer, [gold])
    assert [column for column, _ in said] == ["fixed", "official", "standard"]
    for (_, verdict), words in zip(said, WORDS[task, answer, gold], strict=True):
        assert verdict.startswith(words)


def evaluated(bench, tmp_path, monkeypatch, oracle=None):
    evaluate(bench, oracle or Oracle(), tmp_path / "out", monkeypatch)
    return runs.read(tmp_path / "out")


@pytest.mark.parametrize("layout", ["official", "paper"])
def test_prompts_are_those_that_were_answered(bench, layout, tmp_path, monkeypatch):
    oracle, bench = Oracle(), replace(bench, layout=layout, draw="per_item")
    found, why_not = viewer.samples(evaluated(bench, tmp_path, monkeypatch, oracle), 2)
    assert why_not == "" and [task for task, _ in found] == sorted(
        GOLDS, key=lambda task: (TASKS[task].category, int(task[4:]))
    )
    for task, items in found:
        assert [item.golds for item in items] == [[gold] for gold in GOLDS[task]]
        assert [item.answer for item in items] == GOLDS[task]
        for i, item in enumerate(items):
            assert question(task, i) in item.prompt[-1][1]
            assert TOKENIZER.decode(TOKENIZER.encode_turns(item.prompt)[0]) in oracle.prompts


@pytest.mark.parametrize("change", ["gone", "other", "untold", "nonsense"])
def test_without_its_data_an_item_has_no_prompt_and_that_is_said(
    bench, change, tmp_path, monkeypatch
):
    run = evaluated(bench, tmp_path, monkeypatch)
    file = tmp_path / "out/scores.json"
    content = json.loads(file.read_text())
    if change == "gone":
        content["config"]["path"] = "nowhere"
    elif change == "other":
        test_medsbench.write_task(tmp_path / "test", "task29", ["something else"])
    elif change == "untold":
        del content["config"]["layout"]
    else:
        content["config"]["shots"] = "three"
    file.write_text(json.dumps(content))
    run = runs.read(tmp_path / "out")
    found, why_not = viewer.samples(run, 1)
    assert all(item.prompt is None for _, items in found for item in items)
    told = {"gone": "not at hand", "other": "holds other items", "untold": "does not tell"}
    assert told.get(change, "not at hand") in why_not
    html = report.page(report.gather([run]), examples=1)
    assert f"Without prompts: {why_not}." in text_of(html) and GOLDS["task51"][0] in html


def test_text_is_shown_only_when_asked_for_and_never_runs(bench, tmp_path, monkeypatch):
    run = evaluated(bench, tmp_path, monkeypatch, Oracle(constant=EVIL))
    gathered = report.gather([run])
    shown, hidden = report.page(gathered, examples=1), report.page(gathered)
    for word in (EVIL, GOLDS["task51"][0], question("task51", 0)):
        assert word in text_of(shown) and word not in text_of(hidden)
    assert question("task51", 1) not in text_of(shown)
    assert "<script" not in shown and "may hold medical text" in text_of(shown)
    assert "official" in text_of(shown[shown.index("<h2>Examples") :])


def test_predictions_must_be_there(bench, tmp_path, monkeypatch):
    run = evaluated(bench, tmp_path, monkeypatch)
    (tmp_path / "out/predictions.jsonl").unlink()
    with pytest.raises(UserError, match=r"predictions\.jsonl"):
        viewer.samples(run, 1)
