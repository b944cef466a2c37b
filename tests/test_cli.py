"""A user's mistakes on the training command: one line, exit code 2, nothing half-written."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from medsjax import safetensors_io, train, workdir
from medsjax.errors import Parser, UserError, run_main
from tests import tiny

CONFIG = """
from data.medsins import MedSIns
from medsjax.config import Config, Optim, Run


def get_config():
    return Config(model="model", data=MedSIns(path="tasks"), length=256, batch=8, dtype="float32")
"""
TASK = {"Definition": ["Say it."], "Instances": [{"input": "yes", "output": "yes"}]}


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_folder) -> Path:
    """A folder with a good config, model and task file, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.py").write_text(CONFIG)
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "task1_say.json").write_text(json.dumps(TASK))
    return tmp_path


def refusal(capsys, monkeypatch, *args: str) -> str:
    """The one line of an error; the run's folder must not be there."""
    monkeypatch.setattr(sys, "argv", ["train", *args])
    with pytest.raises(SystemExit) as exit_:
        run_main(train.main)
    assert exit_.value.code == 2
    *noise, line = capsys.readouterr().err.strip().split("\n")
    assert line.startswith("error: ") and not any("Traceback" in n for n in noise)
    assert not Path("runs/exp").exists()
    return line


def write_json(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


BREAKAGES = {
    "no config.json": (lambda p: (p / "model/config.json").unlink(), "no config.json"),
    "broken config.json": (
        lambda p: (p / "model/config.json").write_text("{"),
        "config.json: not a JSON object",
    ),
    "another family": (
        lambda p: write_json(p / "model/config.json", model_type="mamba"),
        "model_type 'mamba' does not load; llama does",
    ),
    "no eps": (
        lambda p: write_json(p / "model/config.json", rms_norm_eps=None),
        "config.json: missing or broken entry (KeyError('rms_norm_eps'))",
    ),
    "another width": (
        lambda p: write_json(p / "model/config.json", intermediate_size=64),
        "mlp.gate_proj.weight is (48, 32); config.json asks for (64, 32)",
    ),
    "a layer too many": (
        lambda p: write_json(p / "model/config.json", num_hidden_layers=3),
        "model.layers.2.self_attn.q_proj.weight is missing",
    ),
    "a layer too few": (
        lambda p: write_json(p / "model/config.json", num_hidden_layers=1),
        "belongs to no part of a 1-layer llama",
    ),
    "truncated weights": (
        lambda p: (p / "model/model.safetensors").write_bytes(
            (p / "model/model.safetensors").read_bytes()[:-100]
        ),
        "truncated",
    ),
    "a broken index": (
        lambda p: (p / "model/model.safetensors.index.json").write_text('{"weights": 1}'),
        "it needs a weight_map",
    ),
    "a shard that is not there": (
        lambda p: (p / "model/model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "gone.safetensors"}}'
        ),
        "names gone.safetensors, which is not there",
    ),
    "no tokenizer": (lambda p: (p / "model/tokenizer.json").unlink(), "no tokenizer here"),
    "broken JSON": (
        lambda p: (p / "tasks/task1_say.json").write_text('{"Definition": ["x"], "Inst'),
        "task1_say.json",
    ),
    "no Instances": (
        lambda p: (p / "tasks/task1_say.json").write_text('{"Definition": ["x"]}'),
        "Instances",
    ),
    "no task files": (lambda p: (p / "tasks/task1_say.json").unlink(), "tasks"),
    "a config that raises": (
        lambda p: (p / "exp.py").write_text("def get_config():\n    return 1 / 0\n"),
        "exp.py:2: ZeroDivisionError",
    ),
    "a config with a syntax error": (
        lambda p: (p / "exp.py").write_text("def get_config(:\n"),
        "exp.py:1: SyntaxError",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_is_named(name, place, capsys, monkeypatch):
    breakage, says = BREAKAGES[name]
    breakage(place)
    assert says in refusal(capsys, monkeypatch, "--config", "exp.py")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--config", "expp.py"], "--config expp.py: no such config file; did you mean exp"),
        (["--config", "exp.py", "--config.optim.lrr=1"], "did you mean --config.optim.lr?"),
        (["--config", "exp.py", "--config.batch=many"], "expected int"),
        (["--config", "exp.py", "--config.model=absent/model/x"], "absent/model/x: no such model"),
        (["--config", "exp.py", "--config.data.few_shot=2"], "few_shot=2"),
        ([], "--config is missing"),
    ],
)
def test_a_wrong_argument_is_named(args, says, place, capsys, monkeypatch):
    (place / "configs").mkdir()
    shutil.copy(place / "exp.py", place / "configs" / "exp.py")
    assert says in refusal(capsys, monkeypatch, *args)


def test_a_tokenizer_larger_than_the_embedding_is_refused(place, capsys, monkeypatch):
    smaller = tiny.write(place / "smaller", vocab_size=tiny.VOCAB - 8)
    shutil.copy(place / "model/tokenizer.json", smaller / "tokenizer.json")
    line = refusal(capsys, monkeypatch, "--config", "exp.py", "--config.model=smaller")
    assert f"the tokenizer has {tiny.VOCAB} ids" in line


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_one_line(place, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    def main():
        (tmp_path / place).mkdir()

    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert said.startswith(f"error: {tmp_path / place}: ")


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    first = workdir.claim(tmp_path)
    with pytest.raises(UserError, match="another run"):
        workdir.claim(tmp_path)
    first.close()
    workdir.claim(tmp_path).close()


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("medsjax.convert", ["--verfy", "a", "b"], "no such option; did you mean --verify?"),
        ("medsjax.plan", ["--topolgy=h200"], "did you mean --topology?"),
        ("eval.score", ["--keep-duplicate-rows", "x"], "did you mean --keep-duplicates?"),
    ],
)
def test_a_misspelt_option_has_a_suggestion(command, arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with pytest.raises(UserError, match=re.escape(said)):
        importlib.import_module(command).main()


def test_a_shortened_option_is_taken():
    parser = Parser()
    parser.add_argument("--keep-duplicates")
    parser.add_argument("--keep")
    assert parser.parse_args(["--keep-dup=x"]).keep_duplicates == "x"


def test_a_full_disk_names_the_file(tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    file.symlink_to("/dev/full")
    args = {"a": (8,)}, {"a": "float32"}, lambda name: np.ones(8, np.float32)
    with pytest.raises(SystemExit):
        run_main(lambda: safetensors_io.write(tmp_path, *args))
    assert capsys.readouterr().err.startswith(f"error: {file}: No space left on device; ")
