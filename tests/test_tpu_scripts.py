"""The TPU scripts, with a gcloud that writes down its arguments and runs `--command` right here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tpu_scripts"
NAMES = ("create", "setup", "run", "delete")
PLACE = {"TPU_NAME": "box", "TPU_ZONE": "zone-a", "TPU_TYPE": "v5p-8"}
BASE = {"PATH": os.environ["PATH"], "LC_ALL": "C"}

GCLOUD = """#!/usr/bin/env bash
printf '%s ' "$@" | tr '\\n' ' ' >>"$HOME/calls" && echo >>"$HOME/calls"
case "$4" in
  describe) echo ACTIVE ;;
  scp) cp "$5" "$HOME/${6#*:}" ;;
  ssh) cd "$HOME" && exec bash -c "${!#}" ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
printf '<%s> ' "$@" && echo
while [[ -e hold ]]; do sleep 0.02; done
exit $(cat status)
"""


def call(name: str, *args: str, **env: str) -> subprocess.CompletedProcess:
    command = [str(SCRIPTS / f"{name}.sh"), *args]
    return subprocess.run(command, env=BASE | env, capture_output=True, text=True, timeout=20)


@pytest.fixture
def vm(tmp_path):
    """An environment whose gcloud is the stand-in and whose home is also the VM's."""
    for path, text in (("bin/gcloud", GCLOUD), ("medsjax/.venv/bin/python", PYTHON)):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)
    (tmp_path / "medsjax" / "status").write_text("0")
    return PLACE | {"PATH": f"{tmp_path / 'bin'}:{BASE['PATH']}", "HOME": str(tmp_path)}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_passes():
    files = [*map(str, sorted(SCRIPTS.glob("*.sh"))), str(ROOT / ".ci" / "run")]
    assert len(files) == 6
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_help_needs_nothing(name):
    done = call(name, "--help")
    assert done.returncode == 0
    assert f"tpu_scripts/{name}.sh [--dry-run]" in done.stdout
    assert "set -euo" not in done.stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unset", ["TPU_NAME", "TPU_ZONE"])
def test_a_setting_that_is_missing_is_named(name, unset):
    env = {key: value for key, value in PLACE.items() if key != unset}
    done = call(name, "--dry-run", **env)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {unset} is not set")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "args", "env", "says"),
    [
        ("create", [], {"TPU_TYPE": "v5p-32"}, "TPU_TYPE=v5p-32: not one VM"),
        ("create", [], {"TPU_TYPE": ""}, "TPU_TYPE is not set"),
        ("create", ["--fast"], {}, "--fast: takes no such argument"),
        ("run", [], {}, "--config is missing"),
    ],
)
def test_a_mistake_is_one_line(name, args, env, says):
    done = call(name, *args, "--dry-run" if not args else args[0], **PLACE | env)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_calls_nothing(vm, name):
    done = call(name, "--dry-run", *(["--config", "x.py"] if name == "run" else []), **vm)
    assert done.returncode == 0
    assert "gcloud compute tpus" in done.stdout
    assert "--zone zone-a" in done.stdout
    assert not Path(vm["HOME"], "calls").exists()


def test_without_gcloud_only_a_dry_run_works(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    env = PLACE | {"PATH": str(tmp_path)}
    assert call("delete", "--dry-run", **env).returncode == 0
    done = call("delete", **env)
    assert done.returncode == 2
    assert "gcloud is not installed" in done.stderr


def test_create_asks_and_waits(vm):
    done = call("create", **vm | {"TPU_TYPE": "v6e-8", "TPU_SPOT": "1", "TPU_PROJECT": "mine"})
    assert done.returncode == 0
    asked, described = Path(vm["HOME"], "calls").read_text().splitlines()
    assert asked.strip() == (
        "compute tpus queued-resources create box --node-id box --zone zone-a --project mine "
        "--accelerator-type v6e-8 --runtime-version v2-alpha-tpuv6e --spot"
    )
    assert "describe box --zone zone-a --project mine" in described


def test_setup_brings_what_git_knows(vm, tmp_path):
    """From a checkout of its own, onto a VM that already has uv, so nothing is fetched."""
    checkout = tmp_path / "checkout"
    shutil.copytree(SCRIPTS, checkout / "tpu_scripts")
    (checkout / "new file.py").write_text("as it is now")
    (checkout / "left.out").write_text("not in git")
    for args in (["init", "-q"], ["add", "new file.py", "tpu_scripts"]):
        subprocess.run(["git", *args], cwd=checkout, check=True, capture_output=True)
    for name in (".local/bin/uv", "bin/gcsfuse", "bin/mountpoint"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/bash\necho {file.name} "$@"\nexit {int("mount" in name)}\n')
        file.chmod(0o755)
    command = [str(checkout / "tpu_scripts" / "setup.sh")]
    env = BASE | vm | {"TPU_BUCKET": "my-bucket"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "medsjax" / "new file.py").read_text() == "as it is now"
    assert not (tmp_path / "medsjax" / "left.out").exists()
    assert "uv pip install --python .venv/bin/python -e .[tpu]" in done.stdout
    assert "jax.devices()" in done.stdout
    assert f"gcsfuse --implicit-dirs my-bucket {tmp_path}/bucket" in done.stdout


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
class TestRun:
    """run.sh, its remote part run by the stand-in."""

    def test_arguments_arrive_as_given_and_the_log_is_shown(self, vm):
        args = ["--config", "my file.py", "--config.model=a'b $HOME", "--config.run.mesh", "4", "2"]
        done = call("run", *args, **vm)
        expected = " ".join(f"<{arg}>" for arg in ["-m", "medsjax.train", *args])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == expected
        assert Path(vm["HOME"], "medsjax", "train.log").read_text().strip() == expected

    def test_a_failed_run_fails(self, vm):
        Path(vm["HOME"], "medsjax", "status").write_text("2")
        assert call("run", "--config", "x.py", **vm).returncode == 2

    def test_a_second_start_follows_the_first(self, vm):
        home = Path(vm["HOME"], "medsjax")
        (home / "hold").touch()
        command = [str(SCRIPTS / "run.sh"), "--config", "x.py"]
        runs = []
        try:
            for _ in range(2):
                runs.append(
                    subprocess.Popen(command, env=BASE | vm, stdout=subprocess.PIPE, text=True)
                )
                line = runs[-1].stdout.readline()
                assert line.startswith("<-m>" if len(runs) == 1 else "a run is going already")
            assert "x.py" in runs[1].stdout.readline()
            assert (home / "train.log").read_text().count("medsjax.train") == 1
        finally:
            (home / "hold").unlink()
            runs[0].wait(timeout=10)
            for run in runs[1:]:
                run.kill()
                run.wait()
