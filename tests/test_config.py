"""The config file, the command line over it, and what a user gets wrong in either."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from medsjax import config
from medsjax.config import Config, Optim, Run
from medsjax.errors import UserError, run_main

HEAD = '"""The first line.\n\nMore."""\nfrom tests.test_config import Bench, Data, Other\n'
HEAD += "from medsjax.config import Config, Optim, Run\n"
GOOD = HEAD + "def get_config():\n    return Config(model='m', data=Data(), bench=Bench())\n"


@dataclass(frozen=True, kw_only=True)
class Data:
    """Stands for a dataset of data/."""

    few_shot: float = 0.5
    """Share of examples that come with shots."""
    tasks: tuple[str, ...] = ()
    """Which tasks."""
    inner: Any = None
    """A dataset in a dataset."""

    def open(self, tokenizer, length, seed):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Stands for an evaluator of eval/."""

    limit: int = 100
    """Items a task."""
    shots: int | None = None
    """Shots, or the task's own number."""

    def __call__(self, model, tokenizer, step, out_dir):
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Other:
    """Stands for another command's config."""

    model: str = "m"
    workdir: str = ""
    bench: Any = Bench()


@pytest.fixture
def file(tmp_path):
    """Writes a config file and gives its path."""

    def write(text: str, name: str = "mine.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def refused(argv: list[str], **kwargs) -> str:
    """The one line that a command ends with."""
    with pytest.raises(UserError) as caught:
        config.load(argv, **kwargs)
    return str(caught.value)


def test_plain_load_fills_the_workdir(file):
    cfg = config.load(["--config", file(GOOD)])
    assert cfg == Config(model="m", data=Data(), bench=Bench(), workdir="runs/mine")
    assert config.load([f"--config={file(GOOD)}", "--config.workdir=x"]).workdir == "x"


def test_any_frozen_dataclass_loads(file):
    path = file(HEAD + "def get_config():\n    return Other()\n")
    cfg = config.load(["--config", path, "--config.bench.limit=7"])
    assert cfg == Other(workdir="runs/mine", bench=Bench(limit=7))
    message = refused(["--config", path], expect=Config, prog="python -m x")
    assert "tests.test_config.Other" in message
    assert "python -m x takes medsjax.config.Config" in message


def test_overrides_are_typed(file):
    text = GOOD.replace("data=Data()", "data=Data(inner=Data()), run=Run(remat='none')")
    argv = "--config.optim.lr=3e-4 --config.batch 8 --config.run.mesh 4 2 --config.run.force_resume"
    argv += " --config.data.few_shot=0.25 --config.data.inner.tasks a b --config.bench.shots=3"
    argv += " --config.run.bench-at=end --config.model=-x --config.bench.limit=-1"
    cfg = config.load(["--config", file(text), *argv.split()])
    assert cfg == Config(
        model="-x",
        data=Data(few_shot=0.25, inner=Data(tasks=("a", "b"))),
        bench=Bench(shots=3, limit=-1),
        batch=8,
        optim=Optim(lr=3e-4),
        run=Run(mesh=(4, 2), force_resume=True, bench_at="end", remat="none"),
        workdir="runs/mine",
    )
    assert type(cfg.optim.lr) is float


def test_a_switch_can_be_turned_off(file):
    path = file(GOOD.replace("bench=", "run=Run(force_resume=True), bench="))
    assert config.load(["--config", path]).run.force_resume
    assert not config.load(["--config", path, "--config.run.no_force_resume"]).run.force_resume


@pytest.mark.parametrize(
    ("arg", "says"),
    [
        ("--config.optim.lrr=1", "did you mean --config.optim.lr?"),
        ("--config.lr=1", "did you mean --config.optim.lr?"),
        ("--config.bacth=8", "did you mean --config.batch?"),
        ("--config.warmpu=8", "did you mean --config.optim.warmup?"),
        ("--batch=8", "did you mean --config.batch?"),
        ("--config.data.fewshot=0", "did you mean --config.data.few_shot?"),
        ("--qqq", "--qqq: no such setting; --help lists"),
        ("--config.batch=many", "--config.batch=many: expected int"),
        ("--config.batch", "--config.batch=: expected int"),
        ("--config.batch=1.5", "--config.batch=1.5: expected int"),
        ("--config.optim.lr=fast", "--config.optim.lr=fast: expected float"),
        ("--config.data.few_shot=x", "--config.data.few_shot=x: expected float"),
        ("--config.bench.shots=x", "--config.bench.shots=x: expected int | None"),
        (
            "--config.run.remat=some",
            "--config.run.remat=some: expected one of ('full', 'qkv_context', 'none')",
        ),
        ("--config.run.mesh 4", "--config.run.mesh=4: expected tuple[int, int]"),
        ("--config.run.mesh 4 2 1", "--config.run.mesh=4 2 1: expected tuple[int, int]"),
        ("--config.run.force_resume=True", "is a switch; write --config.run.force_resume without"),
        ("--config.heldout=x", "--config.heldout: is empty in this config"),
        ("--config.data=x", "--config.data: holds several settings; set one of --config.data.few"),
        ("--config.batch=8 extra", "extra: stray argument"),
        ("extra --config.batch=8", "extra: stray argument"),
        ("--config.batch=0", "config.batch=0: must be a whole number above 0"),
        ("--config.optim.warmup=2", "config.optim.warmup=2.0: must be a number in 0 to 1"),
        ("--config.optim.lr=nan", "config.optim.lr=nan: must be a number above 0"),
        ("--config.run.accumulate=3", "config.batch=128: must be divisible by run.accumulate=3"),
        ("--config=x", "--config is given twice"),
    ],
)
def test_a_wrong_argument_is_named(file, capfd, arg, says):
    assert says in refused(["--config", file(GOOD), *arg.split()])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "x = 1\ny = nix\ndef get_config(): ...", "mine.py:7: NameError: name 'nix'"),
        (HEAD + "import nothing_of_the_kind", "mine.py:6: ModuleNotFoundError"),
        (HEAD + "def get_config():\n    return 1 / 0", "mine.py:7: ZeroDivisionError"),
        (HEAD + "def get_config(:\n", "mine.py:6: SyntaxError"),
        (HEAD + "def get_config():\n    return Config(modl=1)", "mine.py:7: TypeError"),
        (HEAD, "mine.py: has no get_config()"),
        (HEAD + "def get_config():\n    return {}", "get_config() returns dict"),
        (HEAD + "def get_config():\n    return Config", "returns medsjax.config.Config; it must"),
        (GOOD.replace("Data()", "open"), "config.data=<built-in function open>: must be a dataset"),
        (GOOD.replace("Data()", "Data(inner=lambda: 1)"), "config.data.inner: a function"),
        (GOOD.replace("Data()", "Data(tasks={'a'})"), "config.data.tasks: a set"),
        (GOOD.replace("Data()", "Data(tasks=[object()])"), "config.data.tasks[0]: a object"),
    ],
)
def test_a_broken_file_is_one_line(file, text, says):
    assert says in refused(["--config", file(text)])


def test_a_mutable_dataclass_is_refused(file):
    text = GOOD.replace("Data()", "Data(inner=Loose())")
    text = text.replace(
        "def get", "import dataclasses\n@dataclasses.dataclass\nclass Loose: ...\ndef get"
    )
    assert "config.data.inner: medsjax_config_mine.Loose must be a frozen" in refused(
        ["--config", file(text)]
    )


def test_user_errors_of_the_file_pass_unchanged(file):
    text = "from medsjax.errors import UserError\ndef get_config(): raise UserError('set FOO')\n"
    assert refused(["--config", file(text)]) == "set FOO"


def test_files_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text(GOOD)
    (tmp_path / "configs" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in (
        "mine",
        "mine.py",
        "configs/mine.py",
        "configs/mine",
        str(Path("configs").resolve() / "mine"),
    ):
        assert config.load(["--config", name]).workdir == "runs/mine"
    assert "did you mean mine.py?" in refused(["--config", "mien.py"])
    missing = refused([])
    assert missing.startswith("--config is missing")
    assert "mine.py (The first line.)" in missing
    assert "__init__" not in missing
    assert "mine.py" in refused(["--config"])
    assert "mine.py" in refused(["--config", "--help"])


def test_configs_of_the_checkout_are_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "configs").mkdir(parents=True)
    (tmp_path / "checkout" / "configs" / "mine.py").write_text(GOOD)
    monkeypatch.setattr(config, "ROOT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    assert config.load(["--config", "mine"]).model == "m"


def test_help_without_a_config_lists_the_configs(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text(GOOD)
    (tmp_path / "configs" / "torn.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exited:
        config.load(["--help"], prog="python -m this", about="Does things.")
    assert exited.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "python -m this --config",
        "Does things.",
        "mine.py",
        "The first line.",
        "torn.py",
    ):
        assert text in out


def test_help_lists_every_setting_with_meaning_and_value(file, capsys):
    path = file(GOOD.replace("bench=", "batch=77, bench="))
    with pytest.raises(SystemExit) as exited:
        config.load(["--config", path, "--help"])
    assert exited.value.code == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The first line." in out
    for text in (
        "--config.batch INT Rows in a global step, over all devices and accumulation parts. "
        "(default: 77)",
        "--config.data.few_shot FLOAT Share of examples that come with shots. (default: 0.5)",
        "--config.run.bench_at {none,start,end,both}",
        "--config.run.force_resume",
        "(default: 1e-05)",
    ):
        assert text in out
    for key in ("length", "optim.clip", "optim.final", "run.mesh", "workdir", "bench.limit"):
        assert f"--config.{key} " in out


@pytest.mark.parametrize(
    "make",
    [
        lambda: Optim(lr=0),
        lambda: Optim(b2=1.0),
        lambda: Optim(weight_decay=-0.1),
        lambda: Optim(final=True),
        lambda: Run(keep=0),
        lambda: Run(mesh=(1, 2, 3)),
        lambda: Run(mesh=(-1, 1)),
        lambda: Run(bench_at="never"),
        lambda: Config(model="", data=Data()),
        lambda: Config(model="m", data=Data(), batch="8"),
        lambda: Config(model="m", data=Data(), epochs=float("inf")),
        lambda: Config(model="m", data=Data(), dtype="float16"),
        lambda: Config(model="m", data="folder"),
        lambda: Config(model="m", data=Data(), heldout="folder"),
        lambda: Config(model="m", data=Data(), bench="folder"),
    ],
)
def test_values_are_checked(make):
    with pytest.raises(UserError, match=r"^config\.[\w.]+=.*: must be "):
        make()


def test_to_dict_is_json_and_names_the_classes():
    cfg = Config(model="m", data=Data(tasks=("a",)), bench=Bench())
    found = json.loads(json.dumps(config.to_dict(cfg)))
    assert found["_type"] == "Config"
    assert found["data"] == {"_type": "Data", "few_shot": 0.5, "tasks": ["a"], "inner": None}
    assert found["run"]["mesh"] == [0, 0]
    changed = config.to_dict(replace(cfg, optim=Optim(lr=1e-4)))
    assert [key for key in found if found[key] != changed[key]] == ["optim"]


def test_a_loaded_config_pickles_and_its_repr_is_equal_elsewhere(file):
    path = file(GOOD)
    cfg = config.load(["--config", path])
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    code = f"from medsjax import config; print(config.load(['--config', {path!r}]))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == repr(cfg)


def test_a_mistake_exits_2_with_one_line(capsys):
    with pytest.raises(SystemExit) as exited:
        run_main(lambda: config.load(["--config", "no_such_thing_at_all"]))
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --config no_such_thing_at_all: no such config file; ")
    assert error.count("\n") == 1


def test_a_command_expects_the_class_of_its_own_module(tmp_path):
    """`python -m x` has x.Config as __main__.Config; the config file imports the other one."""
    (tmp_path / "mycommand.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Config:\n    n: int = 1\n"
        "if __name__ == '__main__':\n"
        "    from medsjax import config\n"
        "    print(config.load(prog='cmd', expect=Config).n)\n"
    )
    (tmp_path / "mine.py").write_text(
        "from mycommand import Config\ndef get_config(): return Config()\n"
    )
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    command = [sys.executable, "-m", "mycommand", "--config", "mine.py", "--config.n=2"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("2\n", "")
