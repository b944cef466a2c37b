"""data.show: what it prints is what a step is given, and the counts are true."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data import show
from medsjax import config, convert, input_pipeline
from medsjax.errors import run_main
from medsjax.train import Plan

CONFIG = """
from data.medsins import MedSIns
from medsjax.config import Config

def get_config():
    return Config(model="{model}", data=MedSIns(path="tasks"), length=256, batch=4)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_folder) -> Path:
    """A folder with a config and two tasks, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "exp.py").write_text(CONFIG.format(model=tiny_folder))
    (tmp_path / "tasks").mkdir()
    for task, n in (("task1", 40), ("task12", 120)):
        instances = [{"input": f"{task} in {i}", "output": f"out {i}"} for i in range(n)]
        document = {"Definition": ["Say it."], "Instances": instances}
        (tmp_path / "tasks" / f"{task}_made_up.json").write_text(json.dumps(document))
    return tmp_path


def shown(capsys, monkeypatch, *args: str) -> str:
    monkeypatch.setattr(sys, "argv", ["show", "--config", "exp.py", *args])
    show.main()
    return capsys.readouterr().out


def plan_of(*args: str) -> tuple[config.Config, object, Plan]:
    cfg = config.load(["--config", "exp.py", *args])
    _, tokenizer = convert.inspect(convert.resolve(cfg.model))
    return cfg, tokenizer, Plan.of(cfg.data, tokenizer, cfg, "data")


def test_rows_are_those_of_the_first_step(folder, capsys, monkeypatch):
    args = ("--config.seed=3", "--config.data.few_shot=0.3")
    text = shown(capsys, monkeypatch, "--n", "4", *args)
    cfg, _, plan = plan_of(*args)
    batches = input_pipeline.batches(
        *(plan.source, plan.rows, plan.lengths),
        **{"length": cfg.length, "batch": cfg.batch, "epochs": cfg.epochs, "seed": cfg.seed},
        **{"start_step": 0, "process_index": 0, "process_count": 1, "workers": 0},
    )
    batch = next(batches)
    batches.close()
    rows = input_pipeline.epoch_rows(len(plan.rows), 0, 3)[:4]
    pattern = r"row (\d+): (\d+) in it, (\d+) of 256 tokens, (\d+) carry loss"
    wanted = [
        (row, len(plan.rows.examples(row)), (segments > 0).sum(), mask.sum())
        for row, segments, mask in zip(
            rows, batch["segments_BT"], batch["loss_mask_BT"], strict=True
        )
    ]
    assert [tuple(map(int, found)) for found in re.findall(pattern, text)] == wanted
    records = [plan.source.record(i)[0] for row in rows for i in plan.rows.examples(row)]
    assert re.findall(r"^\d+\. (task\d+), (.*?):", text, re.MULTILINE) == [
        (record.task, record.id) for record in records
    ]
    answers = [f"⟦{record.outputs[0]}<|eot_id|>⟧" for record in records]
    assert re.findall(r"⟦[^⟧]*⟧", text.partition("⟦Green⟧")[2]) == answers


def test_text_is_that_of_the_ids_and_brackets_hold_the_targets(folder):
    _, tokenizer, plan = plan_of("--config.data.few_shot=1")
    for i in range(0, 160, 10):
        ids, mask = plan.source[i]
        text = show.rendered(tokenizer, ids, mask).plain
        raw = tokenizer.codec.fast.decode(ids.tolist(), skip_special_tokens=False)
        assert text.replace("⟦", "").replace("⟧", "") == raw
        assert show.rendered(tokenizer, ids, ~mask).plain.startswith("⟦<|begin_of_text|>")
    everything = show.rendered(tokenizer, ids, np.ones_like(mask)).plain
    assert everything == f"⟦{raw}⟧"


def test_a_terminal_obeys_nothing_in_the_text(folder):
    _, tokenizer, _ = plan_of()
    ids = np.array(tokenizer.encode("[red]a\x1b[31m\x07b\tc\nd\x9b"))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(show.rendered(tokenizer, ids, np.zeros(len(ids), bool)))
    assert captured.get().strip() == "[red]a\ufffd[31m\ufffdb   c\nd\ufffd"


def test_counts(folder, capsys, monkeypatch):
    args = ("--config.data.weights", "task12=0.5", "--config.data.part=train")
    text = shown(capsys, monkeypatch, "--n", "0", *args)
    _, _, plan = plan_of(*args)
    assert plan.describe() in " ".join(text.split()) and "task1 in" not in text
    assert f"{input_pipeline.n_steps(len(plan.rows), 4, 1.0)} steps of 4" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if "task" in line}
    tokens = plan.lengths[:36].sum(), plan.lengths[36:].sum()
    means, all_ = (tokens[0] / 36, tokens[1] / 54), sum(tokens)
    assert rows["task1"][-7:] == [
        *("40", "36", "25.00%", "36", "40.00%", f"{means[0]:.0f}", f"{tokens[0] / all_:.2%}")
    ]
    assert rows["task12"][-7:] == [
        *("120", "108", "75.00%", "54", "60.00%", f"{means[1]:.0f}", f"{tokens[1] / all_:.2%}")
    ]


def test_a_sample_is_said_to_be_one(folder, capsys, monkeypatch):
    whole = shown(capsys, monkeypatch, "--n", "0")
    assert "sample" not in whole
    assert shown(capsys, monkeypatch, "--n", "0", "--examples", "0") == whole
    part = " ".join(shown(capsys, monkeypatch, "--n", "1", "--examples", "50").split())
    assert "50 examples, " in part and "about " in part
    assert "a sample of 50 of 160 examples is measured" in part
    cfg, tokenizer, plan = plan_of()
    sample = show.Sample(cfg.data, 50).open(tokenizer, cfg.length, cfg.seed)
    again = show.Sample(cfg.data, 50).open(tokenizer, cfg.length, cfg.seed)
    assert len(set(sample.chosen)) == 50 and list(sample.chosen) == list(again.chosen)
    assert sample.fingerprint == again.fingerprint != plan.source.fingerprint
    for i, example in enumerate(sample.chosen):
        assert np.array_equal(sample[i][0], plan.source[example][0])
        assert sample.measure(i) == plan.source.measure(example)


def test_what_is_left_out_and_lost_is_told(folder, capsys, monkeypatch):
    name = "task39_stance.json"
    (folder / "tasks" / name).write_text((folder / "tasks" / "task1_made_up.json").read_text())
    args = ("--config.data.fixes", "non_medical", "--config.data.few_shot=1", "--config.length=160")
    text = shown(capsys, monkeypatch, "--n", "3", *args)
    assert "not in use: task39" in text
    assert "lost shots" in text and re.search(r"task12-\d+, lost \d shots: \d+ tokens", text)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--n", "-1"), "--n -1"),
        (("--examples", "-1"), "--examples -1"),
        (("--config.data.path=",), "MEDSINS_DIR"),
        (("--config.data.weights", "task13=2"), "did you mean task1"),
        (("--config.data.wieghts", "task1=2"), "did you mean --config.data.weights"),
        (("--config.length=24",), "leave the task out"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, monkeypatch, args, told):
    monkeypatch.setattr(sys, "argv", ["show", "--config", "exp.py", *args])
    with pytest.raises(SystemExit) as exit_:
        run_main(show.main)
    assert exit_.value.code == 2
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("error: ") and told in line


OTHER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Other:
    path: str

    def open(self, tokenizer, length, seed):
        return []

"""


def test_another_dataset_is_refused(folder, capsys, monkeypatch):
    text = (folder / "exp.py").read_text()
    text = text.replace("data=MedSIns(", "data=Other(").replace("\ndef ", f"{OTHER}\ndef ")
    (folder / "exp.py").write_text(text)
    monkeypatch.setattr(sys, "argv", ["show", "--config", "exp.py"])
    with pytest.raises(SystemExit):
        run_main(show.main)
    assert "config.data: Other cannot be shown" in capsys.readouterr().err
