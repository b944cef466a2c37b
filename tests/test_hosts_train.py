"""`python -m medsjax.train` on two processes of four devices is the run of one process of eight."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from medsjax import metrics
from tests import tiny
from tests.test_hosts import free_port

CONFIG = """
import os
from medsjax.config import Config, Optim, Run
from tests.test_train import Repeat

def get_config():
    return Config(
        model=os.environ["MODEL"],
        data=Repeat(n=int(os.environ.get("N", 96))),
        heldout=Repeat(8, salt=1),
        **{"length": 32, "batch": 16, "epochs": 4.0, "dtype": "float32"},
        optim=Optim(lr=1e-3, eps=1e-5),  # 1e-8 makes steps of the rounding of vanishing gradients
        run=Run(log_every=1, save_every=100, bench_at="none", remat="none", accumulate=2),
    )
"""
STEPS = 10


class Process:
    """Host `index` of `count` in a process of its own, its output in files."""

    def __init__(self, folder: Path, workdir: str, devices: int, place: dict, **more: str):
        name = f"{workdir}-{place.get('JAX_PROCESS_ID', 0)}"
        self.out, self.err = (folder / f"{name}.{kind}" for kind in ("out", "err"))
        flags = f"--xla_force_host_platform_device_count={devices}"
        env = {**os.environ, "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0"}
        env |= {"MODEL": str(folder / "model"), **place, **more}
        command = [sys.executable, "-m", "medsjax.train", "--config", str(folder / "config.py")]
        command.append(f"--config.workdir={folder / workdir}")
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=err)

    def code(self) -> int:
        """Of its end."""
        try:
            return self.process.wait(240)
        finally:
            self.process.kill()

    def errors(self) -> list[str]:
        return [x for x in self.err.read_text().splitlines() if x.startswith("error: ")]


def two(folder: Path, workdir: str, *, hosts=(0, 1), others: dict | None = None, **more: str):
    """Both hosts of a run, or one; `others` stands in the environment of host 1 alone."""
    place = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    return [
        Process(
            *(folder, workdir, 4, {**place, "JAX_PROCESS_ID": str(i)}),
            **{**more, **((others or {}) if i else {})},
        )
        for i in hosts
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    tiny.write(folder / "model", hidden_size=64, intermediate_size=128)
    tiny.write(folder / "other", hidden_size=64, intermediate_size=128, seed=1)
    (folder / "config.py").write_text(CONFIG)
    return folder


@pytest.mark.slow
def test_two_processes_of_four_devices_are_one_of_eight(folder):
    """The two are stopped by SIGTERM on the way, and resumed."""
    alone = Process(folder, "one", 8, {})
    assert alone.code() == 0

    both, log = two(folder, "two"), folder / "two" / "metrics.jsonl"
    while len(metrics.read(log)) < 3 and both[0].process.poll() is None:
        time.sleep(0.01)
    start = time.monotonic()
    both[1].process.send_signal(signal.SIGTERM)
    assert [host.code() for host in both] == [0, 0] and time.monotonic() - start < 30
    told = re.findall(r"stopped by SIGTERM; step (\d+) is saved", both[0].out.read_text())
    assert len(told) == 1 and 2 < int(told[0]) < STEPS
    assert [p.name for p in folder.glob("two/checkpoints/[0-9]*")] == told

    both = two(folder, "two")
    assert [host.code() for host in both] == [0, 0]
    assert f"resuming after step {told[0]}" in both[0].out.read_text()
    assert not re.search("resuming|steps|tuned", both[1].out.read_text())  # host 0 speaks for both
    seen = [metrics.read(folder / name / "metrics.jsonl") for name in ("one", "two")]
    assert [row["step"] for row in seen[0]] == list(range(STEPS + 1))
    assert [row["step"] for row in seen[1]] == list(range(STEPS + 1))
    for one, other in zip(*seen, strict=True):
        for key in one.keys() - {"time", "tokens_per_second", "mfu", "grad_norm"}:
            np.testing.assert_allclose(other[key], one[key], rtol=1e-6, err_msg=key)
    one, other = (load_file(folder / name / "hf/model.safetensors") for name in ("one", "two"))
    for name in one:  # which has moved by 1e-3 and more
        np.testing.assert_allclose(other[name], one[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"N": "97"}, r"config\.data\.n is 97, on host 0 \(.*\) it is 96; "),
        ({"MODEL": "other"}, r"model is [0-9a-f]{64}, on host 0 \(.*\) it is [0-9a-f]{64}; "),
        ({"XLA_FLAGS": ""}, r"devices is 1 x cpu, on host 0 \(.*\) it is 4 x cpu; "),
    ],
)
def test_a_host_that_differs_is_named_on_both(folder, others, line):
    if "MODEL" in others:
        others = {"MODEL": str(folder / "other")}
    both = two(folder, "differs", others=others)
    assert [host.code() for host in both] == [2, 2]
    errors = [host.errors() for host in both]
    assert errors[0] == errors[1] and len(errors[0]) == 1
    assert re.match(rf"error: host 1 \(.*\): {line}", errors[0][0])
    assert not any("Traceback" in host.err.read_text() for host in both)


@pytest.mark.slow
@pytest.mark.parametrize("host", [0, 1])
def test_a_missing_process_is_named_in_time(folder, host):
    (here,) = two(folder, "missing", hosts=(host,), MEDSJAX_HOSTS_TIMEOUT="1")
    assert here.code() == 2 and len(here.errors()) == 1
    assert re.match(rf"error: host {1 - host} .*missing after 1 s", here.errors()[0])
