import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import pytest

from eval import charts, report, runs
from eval.scores import build
from medsjax.errors import UserError

EVIL = "<script>alert('$x$')</script>"


def scores(**values):
    """scores.json of tasks {id: (score, low, high, trivial)}, each on 50 items."""
    tasks = {
        task: {"category": "Diagnosis", "dataset": f"Set {task}", "language": "en", "source": "web"}
        for task in values
    }
    results = {
        task: {"acc,fixed": value, "acc_ci95,fixed": [low, high], "trivial,fixed": trivial}
        for task, (value, low, high, trivial) in values.items()
    }
    mean = sum(v[0] for v in values.values()) / len(values)
    trivial = sum(v[3] for v in values.values()) / len(values)
    return {
        "results": results,
        "primary": dict.fromkeys(values, "acc,fixed"),
        "n-samples": dict.fromkeys(values, 50),
        "n-shot": dict.fromkeys(values, 3),
        "tasks": tasks,
        "config": {"layout": "official", "draw": "fixed", "seed": 0},
        "counts": {"items": 100, "cut_inputs": 0, "by_task": {}},
        "git_hash": "0123abcd",
        "summary": {
            "mean": mean,
            "ci95": [mean - 8, mean + 8],
            "trivial": trivial,
            "by_category": {"Diagnosis": {"mean": mean, "trivial": trivial}},
        },
    }


BEFORE = {"task130": (20.25, 12.0, 31.0, 10.0), "task16": (30.0, 20.0, 40.0, 50.0)}
AFTER = {"task130": (61.5, 48.1, 74.9, 10.0), "task16": (55.5, 45.0, 66.0, 50.0)}


def put(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(content))


def workdir(root, name="demo", before=None, after=None):
    put(root / name / "eval/step_0", before or scores(**BEFORE))
    put(root / name / "eval/step_20", after or scores(**AFTER))
    rows = [{"step": s, "loss": 3 - s / 10, "tokens_per_second": 1000 + s} for s in range(1, 21)]
    rows[9]["heldout_loss"] = 2.4375
    rows[19]["heldout_loss"] = 1.8125
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / name / "metrics.jsonl").write_text(lines)
    (root / name / "config.json").write_text(json.dumps({"optim": {"lr": 0.0042}, "seed": 3}))
    return root / name


def page(tmp_path, *folders, **options):
    report.write(list(folders), tmp_path / "out" / "report.html", **options)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]
    return (tmp_path / "out" / "report.html").read_text("utf-8")


class Outline(HTMLParser):
    """Tags with their attributes, and the text of every table row."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.text = [], [], []
        self.in_row = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
            self.in_row = True

    def handle_endtag(self, tag):
        if tag == "tr":
            self.in_row = False

    def handle_data(self, data):
        self.text.append(data)
        if self.in_row and data.strip():
            self.rows[-1].append(data.strip())


def text_of(html):
    return " ".join("".join(Outline(html).text).split())


def row_of(html, task):
    return next(row for row in Outline(html).rows if task in row)


def test_a_row_holds_both_scores_their_intervals_the_change_and_the_verdict(tmp_path):
    html = page(tmp_path, workdir(tmp_path))
    row = row_of(html, "task130")
    assert row[:7] == ["Diagnosis", "Set task130", "task130", "3", "accuracy", "English", "50"]
    assert row[7:11] == ["20.2", "12.0 to 31.0", "61.5", "48.1 to 74.9"]
    assert row[11:] == ["+41.2", "10.0", "learned"]
    assert row_of(html, "task16")[-4:] == ["45.0 to 66.0", "+25.5", "50.0", "not learned"]


def test_the_sentence_tells_means_trivial_tasks_and_items(tmp_path):
    html = page(tmp_path, workdir(tmp_path))
    lead = re.search(r'<p class="lead">(.*?)</p>', html, re.S)[1]
    said = " ".join(re.sub("<[^>]*>", "", lead).split())
    assert said == (
        "The mean primary score went from 25.1 before to 58.5 after training (trivial 30.0), "
        "over 2 tasks and 100 test items. 1 of 2 tasks was learned."
    )


@pytest.mark.parametrize("low, verdict", [(30.0, "not learned"), (30.01, "learned")])
def test_learned_means_the_interval_lies_above_trivial(tmp_path, low, verdict):
    after = scores(task1=(60.0, low, 90.0, 30.0))
    assert row_of(page(tmp_path, workdir(tmp_path, after=after)), "task1")[-1] == verdict


def test_interval_from_the_standard_error_where_no_other_is_given(tmp_path):
    content = scores(task1=(98.0, 0, 0, 30.0))
    del content["results"]["task1"]["acc_ci95,fixed"]
    content["results"]["task1"]["acc_stderr,fixed"] = 2.0
    put(tmp_path / "x", content)
    assert runs.read(tmp_path / "x").after.mark("task1") == pytest.approx((98.0, 94.08, 100.0))


def test_reads_what_the_evaluation_writes(tmp_path):
    rows = [
        {"task": "task16", "index": i, "id": f"i{i}", "prediction": "1" if i < 12 else " "}
        | {"gold": [str(i % 2)], "dropped_shots": i == 3, "cut_chars": 0}
        for i in range(40)
    ]
    put(tmp_path / "run", build(rows, {"layout": "paper", "seed": 0}, {"task16": 3}, ["task16"]))
    html = page(tmp_path, tmp_path / "run")
    row = row_of(html, "task16")
    where = ["Fact Verification", "PUBHEALTH*", "task16", "3", "accuracy", "English", "40"]
    assert row[:7] == where
    assert (row[7], row[-2], row[-1]) == ("15.0", "50.0", "not above trivial")
    text = "".join(Outline(html).text)
    assert "dropped to fit the length1 (task16: 1)" in text
    assert "empty predictions28 (task16: 28)" in text
    assert "layout paper" in text and "want of training items: task16." in text


def test_the_page_loads_and_runs_nothing(tmp_path):
    html = page(tmp_path, workdir(tmp_path))
    tags = Outline(html).tags
    policy = [a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "//" not in html and "@import" not in html
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in tags}
    assert not [key for _, attrs in tags for key in attrs if key.startswith("on") or key == "src"]
    inside = [v for _, a in tags for k, v in a.items() if k.endswith("href")]
    assert inside and all(v.startswith("#") for v in inside)
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids)) and set(inside) <= {f"#{i}" for i in ids}


def test_names_and_settings_are_text_never_markup(tmp_path):
    content = scores(**{EVIL: (50.0, 40.0, 60.0, 10.0)})
    content["tasks"][EVIL] |= {"dataset": EVIL, "category": EVIL}
    content["config"][EVIL] = EVIL
    content["counts"]["by_task"] = {EVIL: {"cut_inputs": 1}}
    html = page(tmp_path, workdir(tmp_path, after=content))
    assert "<script" not in html
    text = "".join(Outline(html).text)
    assert text.count(EVIL) >= 5 and f"{EVIL} · {EVIL}" in text  # the last one in the chart


def test_the_page_and_its_charts_have_light_dark_and_print_colours(tmp_path):
    html = page(tmp_path, workdir(tmp_path))
    light, dark, paper = (
        re.search(rf"{at}\s*:root {{(.*?)}}", html, re.S)[1]
        for at in ("<style>", r"prefers-color-scheme: dark\) {", "@media print {")
    )
    named = [set(re.findall(r"--[\w-]+(?=:)", css)) for css in (light, dark, paper)]
    assert named[0] == named[1] == named[2] == set(re.findall(r"var\((--[\w-]+)\)", html))
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) == 3
    for svg in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", svg)  # every colour follows the page's palette
        assert "currentColor" in svg
        assert re.match(r'<svg [^>]*role="img" aria-label="[^"]+"[^>]*><title>[^<]+</title>', svg)


def test_same_files_same_bytes(tmp_path):
    folder = workdir(tmp_path)
    assert page(tmp_path, folder) == page(tmp_path, folder)


def test_what_is_missing_is_left_out(tmp_path):
    everything = workdir(tmp_path, "all")
    only_curves = workdir(tmp_path, "curves")
    shutil.rmtree(only_curves / "eval")
    one = tmp_path / "one"
    bare = {key: scores(**AFTER)[key] for key in ("results", "primary")}
    put(one, bare)
    (tmp_path / "empty").mkdir()

    html = page(tmp_path, everything)
    for heading in ("by task", "by category", "Training", "Counts", "Notes", "Settings"):
        assert heading in html
    html = page(tmp_path, only_curves)
    assert "Held-out loss 2.438 at step 10, 1.812 at step 20." in html
    assert "median 1,010 tokens a second" in html
    assert "by task" not in html and "optim.lr" in html and "0.0042" in html
    html = page(tmp_path, one)
    assert row_of(html, "task130")[-1] == "above trivial" and "Before" not in html
    assert "Training" not in html and "by category" not in html
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=folder.name):
            page(tmp_path, folder)


def test_broken_lines_and_not_finite_losses_are_counted_not_hidden(tmp_path):
    folder = workdir(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "loss": NaN}\n{"step": 22, "loss": null}\n{"step": 23, "lo')
    html = page(tmp_path, folder)
    assert "metrics.jsonl: 1 incomplete line left out." in html
    assert "Training loss 2.900 at step 1, 1.000 at step 20." in html
    assert "Training loss: 2 values not finite" in html


def test_pooled_tasks_have_a_row_but_no_part_in_the_means(tmp_path):
    after = scores(**AFTER, task83=(1.0, 0.5, 1.5, 2.0), CT=(1.0, 0.5, 1.5, 2.0))
    html = page(tmp_path, workdir(tmp_path, before=after, after=after))
    assert "over 2 tasks and 100 test items" in " ".join(html.split())
    assert row_of(html, "task83")[-1] == row_of(html, "CT")[-1] == "not learned"
    assert "In no mean, as in the paper's Table 2: task83, CT." in text_of(html)


def test_a_score_that_is_no_number_is_a_dash_without_verdict(tmp_path):
    after = scores(**AFTER)
    after["results"]["task16"] = {"acc,fixed": math.nan, "acc_ci95,fixed": None}
    assert row_of(page(tmp_path, workdir(tmp_path, after=after)), "task16")[-4:] == ["–"] * 4


def test_steps_are_ordered_as_numbers(tmp_path):
    for step, value in ((100, 70.0), (20, 40.0), (3, 10.0)):
        put(tmp_path / f"r/eval/step_{step}", scores(task1=(value, value, value, 5.0)))
    run = runs.read(tmp_path / "r")
    assert (run.before.label, run.after.label) == ("step 3", "step 100")


def test_several_runs_stand_side_by_side(tmp_path):
    one, two = workdir(tmp_path, "one"), tmp_path / "two"
    put(two, scores(task16=(71.25, 60.0, 80.0, 50.0), task2=(33.0, 30.0, 36.0, 20.0)))
    html = page(tmp_path, one, two)
    table = html[html.index("Final scores of all runs") :]
    assert row_of(table, "task16")[2:] == ["55.5", "45.0 to 66.0", "71.2", "60.0 to 80.0"]
    assert row_of(table, "task2")[2:] == ["–", "33.0", "30.0 to 36.0"]
    assert "one and two were evaluated unlike: tasks, items, number of shots differ." in html


def test_a_change_that_is_not_of_training_alone_is_told(tmp_path):
    after = scores(**AFTER)
    after["config"]["layout"] = "paper"
    html = page(tmp_path, workdir(tmp_path, after=after))
    assert "Before and after differ in layout" in html
    assert "Before and after differ" not in page(tmp_path, workdir(tmp_path, "same"))


def test_sample_tasks_and_leave_one_out_shots_are_flagged(tmp_path):
    after = scores(**AFTER)
    after["tasks"]["task16"]["source"] = "medsjax sample"
    after["tasks"]["task130"]["leave_one_out"] = True
    html = page(tmp_path, workdir(tmp_path, after=after))
    assert "not comparable with the paper" in html and "Here: task16." in html
    assert re.search(r"leave-one-out[^<]*: task130\.", html)
    assert "Set task16*" in html and "Set task130*" in html
    plain = page(tmp_path, workdir(tmp_path, "plain"))
    assert "comparable" not in plain and "leave-one-out" not in plain and "*<" not in plain


def test_a_task_that_one_answer_solves_is_degenerate_not_learned(tmp_path):
    after = scores(task12=(100.0, 100.0, 100.0, 100.0), task16=(60.0, 55.0, 65.0, 50.0))
    html = page(tmp_path, workdir(tmp_path, after=after))
    assert row_of(html, "task12")[-1] == "degenerate" and row_of(html, "task16")[-1] == "learned"
    assert "right on every item of task12." in text_of(html)
    assert "Set task12*" in html and "1 of 2 tasks was learned." in text_of(html)
    assert "egenerate" not in page(tmp_path, workdir(tmp_path, "plain"))


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [workdir(tmp_path / root, "same") for root in ("a", "b")]
    found = runs.read_all([*folders, workdir(tmp_path, "other")])
    assert [run.name for run in found] == [*map(str, folders), "other"]


def test_broken_scores_name_the_file(tmp_path):
    folder = workdir(tmp_path)
    for text in ("{", "[]", '{"results": {}}'):
        (folder / "eval/step_20/scores.json").write_text(text)
        with pytest.raises(UserError, match=r"step_20.scores\.json"):
            page(tmp_path, folder)


def test_long_curves_are_thinned_to_means_and_keep_gaps():
    points = [(float(i), 2.0 * i) for i in range(1000)]
    points[500] = (500.0, math.nan)
    x, y = charts.thin(points)
    assert len(x) <= charts.MOST_POINTS
    assert sum(map(math.isnan, y)) == 1
    assert all(math.isnan(b) or b == pytest.approx(2 * a) for a, b in zip(x, y, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("scheme, is_dark", [(1, False), (0, True)], ids=["light", "dark"])
def test_chromium_draws_it_in_light_and_dark(tmp_path, scheme, is_dark):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    page(tmp_path, workdir(tmp_path))
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--no-first-run", "--window-size=1000,1400"]
        + [f"--disable-{what}" for what in quiet]
        + [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}"]
        + [f"--blink-settings=preferredColorScheme={scheme}"]
        + [(tmp_path / "out/report.html").as_uri()],
        check=True,
        timeout=120,
        capture_output=True,
    )
    picture = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    paper = picture[5, 5]
    assert (paper.mean() < 0.5) == is_dark
    drawn = abs(picture - paper).max(axis=-1) > 0.3
    assert drawn[:700].mean() > 0.01 and drawn[700:].mean() > 0.01
