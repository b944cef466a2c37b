"""The evaluation from task files to scores, with an oracle in place of the sampler.

The oracle sees only what a model sees, the prompt's ids, and answers with the golds it was told.
"""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from eval import predictions, run
from eval.medsbench import MedSBench
from eval.tasks import TASKS
from medsjax import config, sampler
from medsjax.errors import UserError

MODEL = {"w": jnp.arange(4.0)}
NULL = "There is no related enetity."
GOLDS = {
    "task57": ["The right answer is A: x", "The right answer is B: y"],
    "task130": ["The diagnosis result is Croup.", "The diagnosis result is SLE."],
    "task126": ["a, b.", NULL],
    "task106": ["Cellular energetics", "Inducing angiogenesis, Resisting cell death"],
    "task29": ["10 mg", "twice"],
    "task51": ["血压下降", "心率加快"],
}
N = 6


class Bytes:
    """A tokenizer of bytes; turns are bracketed by ids beyond them."""

    bos_id, stop_ids, vocab_size, fingerprint = 256, (257,), 260, "bytes"

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def encode_turns(self, turns):
        ids = [self.bos_id]
        for _, text in turns:
            ids += [258, *self.encode(text.strip()), 257]
        ids.append(259)
        return np.array(ids, np.int32), np.zeros(len(ids), bool)


TOKENIZER = Bytes()


def question(task, i):
    return f"question <{task}/{i}>"


def write_task(folder, task, inputs):
    folder.mkdir(exist_ok=True)
    instances = [{"input": text, "output": GOLDS[task][i % 2]} for i, text in enumerate(inputs)]
    content = {
        "Source": ["medsjax sample"],
        "Definition": [f"Define {task}.", "A rewrite."],
        "Instances": instances,
    }
    (folder / f"{task}_sample_kind.json").write_text(json.dumps(content))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Six tasks of N items; task126 has no training file; task29's begins with its test items."""
    monkeypatch.chdir(tmp_path)
    for task in GOLDS:
        write_task(tmp_path / "test", task, [question(task, i) for i in range(N)])
        if task != "task126":
            shots = [f"shot {i} of {task}" for i in range(8)]
            own = [question(task, i) for i in range(N)] if task == "task29" else []
            write_task(tmp_path / "train", task, own + shots)
    return MedSBench(path="test", shots_from="train", batch=4)


class Oracle:
    """Answers with the gold of the last question in the prompt, or with `constant`."""

    def __init__(self, constant=None, die_after=None):
        self.constant, self.die_after, self.prompts = constant, die_after, []

    def __call__(self, model, tokenizer, prompts, max_new_tokens, **kwargs):
        assert len(prompts) == len(max_new_tokens)
        for done, i in enumerate(reversed(range(len(prompts)))):  # in no order of the items'
            if done == self.die_after:
                raise KeyboardInterrupt
            text = tokenizer.decode(prompts[i])
            self.prompts.append(text)
            task, index = text.rsplit("<", 1)[1].split(">")[0].split("/")
            answer = GOLDS[task][int(index) % 2] if self.constant is None else self.constant
            yield i, tokenizer.encode(f" {answer}\n")


def evaluate(bench, oracle, folder, monkeypatch):
    monkeypatch.setattr(sampler, "stream", oracle)
    numbers = bench(MODEL, TOKENIZER, 0, folder)
    return numbers, json.loads((folder / "scores.json").read_text())


def test_golds_give_100_on_every_metric(bench, tmp_path, monkeypatch):
    numbers, scores = evaluate(bench, Oracle(), tmp_path / "out", monkeypatch)
    for task, results in scores["results"].items():
        for key, value in results.items():
            metric, column = key.split(",")
            if column == "fixed" and not metric.endswith(("_stderr", "_ci95", "trivial")):
                assert value == pytest.approx(100), (task, key)
        assert f"{TASKS[task].primary},official" in results and "em,standard" in results
        assert scores["primary"][task] == f"{TASKS[task].primary},fixed"
    assert numbers["bench/mean"] == pytest.approx(100) and numbers["bench/trivial"] < 90
    assert scores["n-samples"] == dict.fromkeys(scores["results"], N)
    assert scores["n-shot"]["task57"] == 0 and scores["n-shot"]["task130"] == 3
    assert scores["tasks"]["task126"]["leave_one_out"]
    assert not scores["tasks"]["task130"]["leave_one_out"]
    assert scores["tasks"]["task130"]["source"] == "medsjax sample"


def test_the_best_constant_gives_trivial(bench, tmp_path, monkeypatch):
    bench = replace(bench, tasks=("task130",))
    oracle = Oracle(constant=GOLDS["task130"][0])
    numbers, _ = evaluate(bench, oracle, tmp_path / "out", monkeypatch)
    assert numbers["bench/task130"] == pytest.approx(numbers["bench/trivial"]) == pytest.approx(50)


def test_killed_and_resumed_gives_the_same_file(bench, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    first, _ = evaluate(bench, Oracle(), whole, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        evaluate(bench, Oracle(die_after=11), part, monkeypatch)
    file = part / "predictions.jsonl"
    assert not (part / "scores.json").exists() and file.read_bytes().count(b"\n") == 11
    content = file.read_bytes()
    file.write_bytes(content[:-7])  # a line cut by the kill
    again = Oracle()
    second, _ = evaluate(bench, again, part, monkeypatch)
    assert len(again.prompts) == N * len(GOLDS) - 10
    assert file.read_bytes() == (whole / "predictions.jsonl").read_bytes()
    assert first == second


def test_the_folder_of_predictions_is_its_owners_alone(bench, tmp_path, monkeypatch):
    bench, step = replace(bench, tasks=("task57",)), tmp_path / "run" / "eval" / "step_0"
    evaluate(bench, Oracle(), step, monkeypatch)
    assert step.stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    evaluate(bench, Oracle(), shared, monkeypatch)
    assert shared.stat().st_mode & 0o777 == 0o750


def test_what_is_finished_is_not_generated_again(bench, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first, scores = evaluate(bench, Oracle(), out, monkeypatch)
    idle = Oracle()
    assert evaluate(replace(bench, batch=9), idle, out, monkeypatch)[0] == first
    (out / "scores.json").unlink()
    del scores["timing"]  # nothing was generated, so there is nothing to time
    assert evaluate(bench, idle, out, monkeypatch) == (first, scores)
    assert not idle.prompts


def test_only_what_this_process_generated_is_timed(bench, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        evaluate(bench, Oracle(die_after=11), tmp_path / "out", monkeypatch)
    early = set(predictions.read(tmp_path / "out"))
    clock = iter(range(10_000))
    monkeypatch.setattr("eval.medsbench.time.monotonic", lambda: next(clock))
    _, scores = evaluate(bench, Oracle(), tmp_path / "out", monkeypatch)
    rows = predictions.read(tmp_path / "out")
    assert all(
        row["new_tokens"] == len(f" {row['prediction']}\n".encode()) for row in rows.values()
    )
    late = [row for key, row in rows.items() if key not in early]
    assert scores["timing"] == {
        "device": "1 x cpu",
        "seconds": len(late),  # the clock moves on by one a row
        "requests": N * len(GOLDS) - 11,
        "prompt_tokens": sum(row["prompt_tokens"] for row in late),
        "new_tokens": sum(row["new_tokens"] for row in late),
    }


@pytest.mark.parametrize("draw", ["fixed", "per_item"])
@pytest.mark.parametrize("room", [1900, 230])
def test_a_prompt_made_again_from_its_row_is_the_prompt(bench, draw, room, tmp_path, monkeypatch):
    bench = replace(bench, draw=draw, length=room + 64, max_new_tokens=64)
    write_task(tmp_path / "test", "task29", ["long " * 60 + question("task29", i) for i in (0, 1)])
    oracle = Oracle()
    evaluate(bench, oracle, tmp_path / "out", monkeypatch)
    built, pools, _ = bench.check()
    rows = predictions.read(tmp_path / "out").values()
    again = [TOKENIZER.encode_turns(bench.turns(built, pools, row))[0] for row in rows]
    assert sorted(map(TOKENIZER.decode, again)) == sorted(oracle.prompts)
    for lost in ("dropped_shots", "cut_chars"):
        assert any(row[lost] for row in rows) == (room == 230)


def test_a_damaged_line_is_generated_again(bench, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate(bench, Oracle(), out, monkeypatch)
    (out / "scores.json").unlink()
    file = out / "predictions.jsonl"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"prediction": "10 mg"', b'"prediction": "11 mg"', 1))
    again = Oracle()
    evaluate(bench, again, out, monkeypatch)
    assert len(again.prompts) == 1 and file.read_bytes() == content


@pytest.mark.parametrize(
    "other", [{"layout": "paper"}, {"seed": 1}, {"tasks": ("task29",)}, {"shots_from": "test"}]
)
def test_other_settings_are_refused_in_one_line(bench, other, tmp_path, monkeypatch):
    if "shots_from" in other:  # other training items, not another name for the same
        write_task(tmp_path / "more", "task29", ["one", "two", "three", "four"])
        other = {"shots_from": "more"}
    evaluate(bench, Oracle(), tmp_path / "out", monkeypatch)
    with pytest.raises(UserError, match="remove the folder or use another"):
        replace(bench, **other)(MODEL, TOKENIZER, 0, tmp_path / "out")
    with pytest.raises(UserError, match="made with model"):
        bench({"w": jnp.ones(4)}, TOKENIZER, 0, tmp_path / "out")


def test_predictions_without_settings_are_refused(bench, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"without settings\.json"):
        bench(MODEL, TOKENIZER, 0, tmp_path)


def prompts_of(bench, tmp_path, monkeypatch, task):
    oracle = Oracle()
    _, scores = evaluate(replace(bench, tasks=(task,)), oracle, tmp_path / "out", monkeypatch)
    return oracle.prompts[::-1], scores, predictions.read(tmp_path / "out")


def test_shots_are_shared_drawn_from_training_and_never_the_item(bench, tmp_path, monkeypatch):
    prompts, _, rows = prompts_of(bench, tmp_path, monkeypatch, "task130")
    shots = {prompt.split("<")[0] for prompt in prompts}
    assert len(shots) == 1 and shots.pop().count("shot ") == 3 + 1  # one in "few-shot cases"
    assert all(row["n_shots"] == 3 for row in rows.values())
    assert all(prompt.startswith("Input:\nshot ") for prompt in prompts)


@pytest.mark.parametrize("task", ["task126", "task29"])
@pytest.mark.parametrize("seed", range(3))
def test_an_item_is_in_its_prompt_once(bench, task, seed, tmp_path, monkeypatch):
    prompts, scores, _ = prompts_of(replace(bench, seed=seed), tmp_path, monkeypatch, task)
    for i, prompt in enumerate(prompts):
        assert prompt.count(question(task, i)) == 1
        assert prompt.count("Output:\n") == 3
    assert scores["tasks"][task]["leave_one_out"] == (task == "task126")


def test_per_item_draws_differ(bench, tmp_path, monkeypatch):
    bench = replace(bench, draw="per_item")
    prompts, _, _ = prompts_of(bench, tmp_path, monkeypatch, "task130")
    assert len({prompt.split("<")[0] for prompt in prompts}) > 1


def test_multiple_choice_has_no_shots_and_the_bare_input(bench, tmp_path, monkeypatch):
    prompts, _, _ = prompts_of(bench, tmp_path, monkeypatch, "task57")
    assert prompts[2] == f"Define task57.{question('task57', 2)}"


def test_limit_draws_items_by_the_seed(bench, tmp_path, monkeypatch):
    drawn = []
    for seed in range(6):
        folder = tmp_path / str(seed)
        limited = replace(bench, limit=2, seed=seed)
        folder.mkdir()
        _, scores, rows = prompts_of(limited, folder, monkeypatch, "task29")
        indices = [index for _, index in rows]
        assert indices == sorted(set(indices)) and scores["n-samples"] == {"task29": 2}
        drawn.append(tuple(indices))
    assert len(set(drawn)) > 1


def test_the_papers_number_of_items_is_the_default(bench):
    big = SimpleNamespace(tasks={name: SimpleNamespace(n=5000) for name in TASKS})
    for name, task in TASKS.items():
        assert len(bench._items(big, name)) == (task.n or 1500)
        assert len(replace(bench, limit=-1)._items(big, name)) == 5000


def test_the_leaderboards_files_hold_every_answer(bench, tmp_path, monkeypatch):
    _, _, rows = prompts_of(bench, tmp_path, monkeypatch, "task29")
    (file,) = (tmp_path / "out" / "leaderboard").iterdir()
    assert file.name == "eval_results_Information_Extraction_1_context_1_oriINS_out.csv"
    with open(file, encoding="utf-8", newline="") as text:
        lines = list(csv.DictReader(text))
    assert [line["output"] for line in lines] == [row["prediction"] for row in rows.values()]
    assert [line["GT"] for line in lines] == [row["gold"][0] for row in rows.values()]
    assert all(line["task_id"] == "task29" and line["input"] for line in lines)


def test_too_long_loses_shots_first_then_the_input_begins_later(bench, tmp_path, monkeypatch):
    write_task(
        tmp_path / "test", "task130", ["long " * 60 + question("task130", 0), "x <task130/1>"]
    )
    bench = replace(bench, length=64 + 230, max_new_tokens=64)
    prompts, scores, rows = prompts_of(bench, tmp_path, monkeypatch, "task130")
    long, short = rows["task130", 0], rows["task130", 1]
    assert long["n_shots"] == 0 and long["dropped_shots"] == 3 and long["cut_chars"] > 0
    assert prompts[0].startswith("Define task130.") and prompts[0].endswith("<task130/0>")
    assert 0 < short["dropped_shots"] < 3 and short["cut_chars"] == 0
    assert all(row["prompt_tokens"] <= 230 for row in rows.values())
    lost = long["dropped_shots"] + short["dropped_shots"]
    assert scores["counts"]["dropped_shots"] == lost and scores["counts"]["cut_inputs"] == 1


def test_no_room_is_said_with_its_place(bench, tmp_path):
    with pytest.raises(UserError, match="task130, item 0"):
        replace(bench, length=66, max_new_tokens=64, tasks=("task130",))(
            MODEL, TOKENIZER, 0, tmp_path / "out"
        )
    with pytest.raises(UserError, match="no room for the 1000 that task51"):
        replace(bench, length=512)(MODEL, TOKENIZER, 0, tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tasks": ("task4",)}, "task4 is none of the 53"),
        ({"tasks": ("task131",)}, "task131 is not in test"),
        ({"shots": -1}, "bench.shots: -1"),
        ({"path": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_settings_are_named(bench, wrong, said, tmp_path):
    with pytest.raises(UserError, match=said):
        replace(bench, **wrong)(MODEL, TOKENIZER, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_paper_s_evaluation_is_the_default():
    cfg = config.load(["--config", "medsbench.py", "--config.bench.limit=50"], expect=run.Config)
    assert cfg.bench == MedSBench(limit=50) and cfg.workdir == "runs/medsbench"
