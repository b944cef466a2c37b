"""The TPU scripts, with a stand-in for Google Cloud."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from tests.fake_cloud import (
    ON_BUCKET,
    PLACE,
    ROOT,
    SCRIPTS,
    Cloud,
    call,
    log,
    wait_for,
)

NAMES = ("create", "setup", "run", "logs", "stop", "delete")


@pytest.fixture
def vm(tmp_path):
    return Cloud(tmp_path, 1)


@pytest.fixture
def slice_of_3(tmp_path):
    return Cloud(tmp_path, 3)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_passes():
    files = [*map(str, sorted(SCRIPTS.glob("*.sh"))), str(ROOT / ".ci" / "run")]
    assert len(files) == 9
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


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
        ("create", [], {"TPU_TYPE": "v5p-12"}, "TPU_TYPE=v5p-12: use v5litepod-N"),
        ("create", [], {"TPU_TYPE": "v6e-24"}, "TPU_TYPE=v6e-24: use v5litepod-N"),
        ("create", [], {"TPU_TYPE": "v2-8"}, "TPU_TYPE=v2-8: use v5litepod-N"),
        ("create", [], {"TPU_TYPE": "v4"}, "TPU_TYPE=v4: use v5litepod-N"),
        ("create", [], {"TPU_TYPE": ""}, "TPU_TYPE is not set"),
        ("create", ["--fast"], {}, "--fast: takes no such argument"),
        ("setup", [], {"TPU_TOKEN_FILE": "nowhere"}, "TPU_TOKEN_FILE=nowhere: no such file"),
        ("run", [], {}, "--config is missing"),
        ("logs", ["--worker"], {}, "--worker : a number"),
        ("logs", ["--worker=1", "2"], {}, "2: takes no such argument"),
        ("logs", ["--worker", "1"], {}, "--worker 1: box has 1, from 0 to 0"),
    ],
)
def test_a_mistake_is_one_line(vm, name, args, env, says):
    done = vm.call(name, *args, **env)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_calls_nothing_and_can_be_pasted(slice_of_3, name, tmp_path):
    cloud, args = slice_of_3, []
    cloud.write("queue", "ACTIVE\n")
    (tmp_path / "the token").write_text("hf_x")
    if name == "run":
        args = ["--config", "my file.py", ON_BUCKET, "--config.model=a'b $HOME"]
    env = {"TPU_TOKEN_FILE": str(tmp_path / "the token")} if name == "setup" else {}
    done = cloud.call(name, "--dry-run", *args, **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--zone zone-a" in done.stdout
    assert cloud.calls() == []

    subprocess.run(["bash"], input=done.stdout, env=cloud.env, cwd=ROOT, text=True, check=False)
    pasted = cloud.calls()
    assert len(pasted) == done.stdout.count("gcloud compute")
    cloud.write("queue", "ACTIVE\n")
    (cloud.root / "states").unlink(missing_ok=True)
    cloud.call(name, *args, **env)
    assert set(pasted) == set(cloud.calls())


def test_without_gcloud_only_a_dry_run_works(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    env = PLACE | {"PATH": str(tmp_path)}
    assert call("delete", "--dry-run", **env).returncode == 0
    done = call("delete", **env)
    assert done.returncode == 2
    assert "gcloud is not installed" in done.stderr


class TestCreate:
    def test_asks_and_waits(self, vm):
        vm.write("queue", "ACCEPTED\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
        done = vm.call("create", TPU_TYPE="v6e-32", TPU_SPOT="1", TPU_PROJECT="mine")
        assert done.returncode == 0
        lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
        assert lines == [
            "box is ACCEPTED",
            "box is WAITING_FOR_RESOURCES: in the queue until zone-a has a v6e-32 to give",
            "box is PROVISIONING: its VMs are being made",
            "box is ACTIVE: ready; next is tpu_scripts/setup.sh",
        ]
        described, asked, *_ = vm.calls()
        assert "describe box --zone zone-a --project mine" in described
        assert asked == (
            "compute tpus queued-resources create box --node-id box --zone zone-a --project mine "
            "--accelerator-type v6e-32 --runtime-version v2-alpha-tpuv6e --spot"
        )

    def test_again_waits_on(self, vm):
        vm.write("states", "PROVISIONING\nACTIVE\n")
        done = vm.call("create")
        assert done.returncode == 0
        assert done.stdout.startswith("box has been asked for already\n")
        assert not any(" create " in line for line in vm.calls())

    @pytest.mark.parametrize(
        ("state", "says"),
        [
            ("FAILED", "box is FAILED: quota is 0; tpu_scripts/delete.sh, then"),
            ("SUSPENDED", "box is SUSPENDED: taken back, as spot TPUs are"),
            ("DELETING", "box is DELETING: try again when it is gone"),
        ],
    )
    def test_what_will_not_come_ends_the_waiting(self, vm, state, says):
        vm.write("queue", f"WAITING_FOR_RESOURCES\n{state}\n")
        done = vm.call("create")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"error: {says}")


def set_up(cloud, checkout, *known: str, **env: str):
    """setup.sh of a checkout of its own, in which git knows the scripts and `known`."""
    shutil.copytree(SCRIPTS, checkout / "tpu_scripts")
    for args in (["init", "-q"], ["add", *known, "tpu_scripts"]) if known else ():
        subprocess.run(["git", *args], cwd=checkout, check=True, capture_output=True)
    (checkout / "deleted.py").unlink(missing_ok=True)
    command = [str(checkout / "tpu_scripts" / "setup.sh")]
    return subprocess.run(command, env=cloud.env | env, capture_output=True, text=True, timeout=20)


def test_setup_brings_what_git_knows_to_every_worker(slice_of_3, tmp_path):
    """From a checkout of its own, onto workers that already have uv, so nothing is fetched."""
    checkout, token = tmp_path / "checkout", tmp_path / "token"
    checkout.mkdir()
    (checkout / "new file.py").write_text("as it is now")
    (checkout / "deleted.py").write_text("known, but there no more")
    (checkout / "left.out").write_text("not in git")
    (checkout / "mine.py").write_text("not in git, and perhaps forgotten")
    token.write_text("hf_secret")
    for home in slice_of_3.homes:
        shutil.rmtree(home / "tpu_scripts")
        (home.parent / "mounted").unlink()
        (home.parent / "bucket").mkdir()
    env = {"TPU_BUCKET": "gs://my-bucket", "TPU_TOKEN_FILE": str(token)}
    done = set_up(slice_of_3, checkout, "new file.py", "deleted.py", **env)
    told = "not copied, as git does not know it (git add): mine.py\n"
    assert (done.returncode, done.stderr) == (0, told)
    for i, home in enumerate(slice_of_3.homes):
        assert (home / "new file.py").read_text() == "as it is now"
        assert not {"left.out", "mine.py", "deleted.py"} & {f.name for f in home.iterdir()}
        assert f"worker {i}: set up" in done.stdout
        assert f"my-bucket {home.parent}/bucket" in done.stdout
        assert f"print('worker {i}: jax'" in done.stdout
        assert list((home.parent / "bucket").iterdir()) == []
        copied = home.parent / ".cache/huggingface/token"
        assert copied.read_text() == "hf_secret"
        assert copied.stat().st_mode & 0o777 == 0o600
    assert done.stdout.count("uv pip install --quiet --python .venv/bin/python -e .[tpu]") == 3
    assert "hf_secret" not in done.stdout + "".join(slice_of_3.calls())
    assert not list(tmp_path.glob("*.tgz"))


def test_setup_outside_a_checkout_leaves_the_workers_alone(slice_of_3, tmp_path):
    done = set_up(slice_of_3, tmp_path / "copy", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 2
    assert "error: this is no git checkout (see above)" in done.stderr.splitlines()[-1]
    assert not any(" scp " in line or " ssh " in line for line in slice_of_3.calls())


def test_setup_does_not_go_on_with_another_bucket(slice_of_3, tmp_path):
    for home in slice_of_3.homes:
        (home.parent / "mounted").write_text("old-bucket\n")
        (home.parent / "bucket").mkdir()
    done = set_up(slice_of_3, tmp_path / "copy", "tpu_scripts/setup.sh", TPU_BUCKET="new-bucket")
    assert done.returncode == 2
    assert (
        "error: worker 1: old-bucket is mounted, not new-bucket; sudo systemctl stop" in done.stderr
    )


@pytest.mark.parametrize("name", ["setup", "run", "logs", "stop"])
@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("PREEMPTED 3\n", "box is PREEMPTED, taken back: delete.sh, create.sh, setup.sh, and run"),
        ("REPAIRING 3\n", "box is REPAIRING, not READY"),
    ],
)
def test_a_tpu_that_was_taken_back(slice_of_3, name, node, says):
    slice_of_3.write("node", node)
    done = slice_of_3.call(name, *(["--config", "x.py", ON_BUCKET] if name == "run" else []))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1
    assert len(slice_of_3.calls()) == 1


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
class TestRun:
    """run.sh, logs.sh and stop.sh; their part on the workers is run by the stand-in."""

    def test_arguments_arrive_as_given_and_the_log_is_shown(self, vm):
        args = ["--config", "my file.py", "--config.model=a'b $HOME", "--config.run.mesh", "4", "2"]
        expected = " ".join(f"<{arg}>" for arg in ["-m", "medsjax.train", *args])
        for _ in range(2):  # the log goes on; what is shown is the new part
            done = vm.call("run", *args)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines() == [f"{expected} ", "worker 0: exit code 0"]
        assert log(vm.homes[0]).splitlines() == [f"{expected} "] * 2

    def test_every_worker_runs_and_the_first_shows_its_log(self, slice_of_3):
        done = slice_of_3.call("run", "--config", "x.py", "--config.workdir", "../bucket/runs/x")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("medsjax.train") == 1
        assert all("<--config> <x.py>" in log(home) for home in slice_of_3.homes)
        ends = [line for line in done.stdout.splitlines() if "exit code" in line]
        assert sorted(ends) == [f"worker {i}: exit code 0" for i in range(3)]

    def test_a_worker_that_fails_is_named(self, slice_of_3):
        (slice_of_3.homes[1] / "status").write_text("3")
        done = slice_of_3.call("run", "--config", "x.py", ON_BUCKET)
        assert done.returncode == 3
        assert "worker 1: exit code 3\n" in done.stdout
        assert f"worker 1: <-m> <medsjax.train> <--config> <x.py> <{ON_BUCKET}>" in done.stdout
        assert done.stderr == "worker 1 failed with exit status 3\n"

    def test_a_tpu_that_is_taken_back_meanwhile(self, slice_of_3):
        (slice_of_3.homes[0] / "taken").write_text("PREEMPTED 3\n")
        (slice_of_3.homes[0] / "status").write_text("1")
        done = slice_of_3.call("run", "--config", "x.py", ON_BUCKET)
        assert done.returncode == 2
        assert "error: box is PREEMPTED, taken back" in done.stderr

    @pytest.mark.parametrize("args", [[], ["--config.workdir=runs/x"], ["--config.workdir", "b"]])
    def test_several_workers_need_the_bucket(self, slice_of_3, args):
        done = slice_of_3.call("run", "--config", "x.py", *args)
        assert done.returncode == 2
        assert "3 workers share one folder, so it must lie on the bucket" in done.stderr
        assert len(slice_of_3.calls()) == 1

    def test_nothing_starts_where_a_worker_is_not_ready(self, slice_of_3):
        (slice_of_3.homes[1].parent / "mounted").unlink()
        (slice_of_3.homes[2] / ".venv/bin/python").unlink()
        done = slice_of_3.call("run", "--config", "x.py", ON_BUCKET)
        assert done.returncode == 2
        assert "error: worker 1: no bucket is mounted" in done.stderr
        assert "error: worker 2: not set up" in done.stderr
        assert "error: not every worker is ready" in done.stderr
        assert not any(log(home) for home in slice_of_3.homes)

    def test_a_second_start_follows_the_first(self, slice_of_3):
        """Also after the first caller and all it had started here are gone."""
        first = slice_of_3.start()
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(timeout=10)
        second = slice_of_3.start("--config.seed=1")
        try:
            assert second.stdout.readline() == "a run is going already; its log:\n"
            assert "x.py" in second.stdout.readline()
            assert slice_of_3.call("setup").returncode == 2
        finally:
            slice_of_3.let_go()
        assert second.wait(timeout=10) == 0
        assert all(log(home).count("medsjax.train") == 1 for home in slice_of_3.homes)
        assert "worker 0: exit code 0" in slice_of_3.call("logs").stdout

    def test_half_a_run_is_refused(self, slice_of_3):
        home = slice_of_3.homes[1]
        (home / "hold").touch()
        half = subprocess.Popen(
            [str(home / "tpu_scripts/worker.sh"), "train", "--config", "x.py"],
            env=slice_of_3.env | {"HOME": str(home.parent)},
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda: log(home))
        try:
            done = slice_of_3.call("run", "--config", "x.py", ON_BUCKET)
        finally:
            (home / "hold").unlink()
            half.wait(timeout=10)
        assert done.returncode == 2
        assert "error: a run is going, but not on worker 0,worker 2: wait" in done.stderr

    def test_logs_follows_one_worker(self, slice_of_3):
        run = slice_of_3.start()
        command = [str(SCRIPTS / "logs.sh"), "--worker", "2"]
        try:
            logs = subprocess.Popen(command, env=slice_of_3.env, stdout=subprocess.PIPE, text=True)
            assert "x.py" in logs.stdout.readline()
        finally:
            slice_of_3.let_go()
        assert logs.communicate(timeout=10)[0] == "worker 2: exit code 0\n"
        assert run.wait(timeout=10) == 0

    @pytest.mark.parametrize("how", ["stop", "shutdown"])
    def test_python_gets_sigterm_and_ends_by_itself(self, slice_of_3, how):
        run = slice_of_3.start()
        try:
            if how == "stop":
                done = slice_of_3.call("stop")
                assert sorted(done.stdout.splitlines()) == [
                    f"worker {i}: exit code 0" for i in range(3)
                ]
            else:  # as systemd does it: to all processes, with SIGHUP at once
                for home in slice_of_3.homes:
                    for number in (signal.SIGTERM, signal.SIGHUP):
                        with contextlib.suppress(ProcessLookupError):  # the first was enough
                            os.killpg(int((home / ".train.pid").read_text()), number)
            assert run.wait(timeout=10) == 0
            assert all(log(home).endswith("saved\n") for home in slice_of_3.homes)
        finally:
            slice_of_3.let_go()
        assert "no run is going" in slice_of_3.call("stop").stdout
