"""A stand-in for Google Cloud: gcloud writes down its arguments, and workers are folders.

What is sent to a worker is run right here, with that worker's folder as its home.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tpu_scripts"
PLACE = {"TPU_NAME": "box", "TPU_ZONE": "zone-a", "TPU_TYPE": "v5litepod-16"}
BASE = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
ON_BUCKET = "--config.workdir=../bucket/runs/x"

GCLOUD = """#!/usr/bin/env bash
printf '%s ' "$@" | tr '\\n' ' ' >>"$FAKE/calls" && echo >>"$FAKE/calls"
workers=$FAKE/w*
for arg; do [[ $arg != --worker=[0-9]* ]] || workers=$FAKE/w${arg#*=}; done
each() {
  local worker running=() code=0
  for worker in $workers; do
    (cd "$worker" && HOME=$worker "$@") & running+=("$!:${worker##*/w}")
  done
  for pair in "${running[@]}"; do
    wait "${pair%:*}" && continue || last=$?
    echo "worker ${pair#*:} failed with exit status $last" >&2
    [[ $code -ne 0 ]] || code=$last
  done
  exit $code
}
case "$3 $4" in
  "queued-resources create") mv "$FAKE/queue" "$FAKE/states" ;;
  "queued-resources describe")
    [[ "$*" != *failedData* ]] || { echo "quota is 0" && exit; }
    head -n 1 "$FAKE/states" && sed -i '1{$!d}' "$FAKE/states"
    ;;
  "tpu-vm describe") cat "$FAKE/node" ;;
  *\\ scp) each cp "$5" "${6#*:}" ;;
  *\\ ssh) each bash -c "${!#}" ;;
esac
"""
CURL = """#!/usr/bin/env bash
case ${!#} in
  */agent-worker-number) echo -n "${HOME##*/w}" ;;
  */worker-network-endpoints) echo a:b:10.0.0.1,a:b:10.0.0.2 ;;
  *) exit 1 ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
trap 'echo saved; exit 0' TERM
printf '<%s> ' "$@" && echo
while [[ -e hold ]]; do sleep 0.1; done
[[ ! -e taken ]] || mv taken "$FAKE/node"
exit $(cat status)
"""
SLEEP = f"#!/bin/bash\n[[ $1 == 30 ]] || exec {shutil.which('sleep')} $1\n"
SUDO = '#!/bin/bash\nexec "$@"\n'
SYSTEMD_RUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
GCSFUSE = """#!/usr/bin/env bash
[[ $1 != --help ]] || { echo --metadata-cache-negative-ttl-secs && exit; }
echo "gcsfuse $*" && touch "$HOME/mounted"
"""


def executable(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


class Cloud:
    """A TPU of several workers, with medsjax on each; its gcloud is the stand-in."""

    def __init__(self, root: Path, workers: int):
        self.root = root
        tools = {"gcloud": GCLOUD, "curl": CURL, "sleep": SLEEP, "sudo": SUDO, "gcsfuse": GCSFUSE}
        tools |= {"findmnt": "#!/bin/bash\ncat $HOME/mounted\n"}
        tools |= {"systemd-run": SYSTEMD_RUN, "mountpoint": "#!/bin/bash\ntest -e $HOME/mounted\n"}
        for name, text in tools.items():
            executable(root / "bin" / name, text)
        self.homes = [root / f"w{i}" / "medsjax" for i in range(workers)]
        for home in self.homes:
            executable(home / ".venv/bin/python", PYTHON)
            executable(home.parent / ".local/bin/uv", '#!/bin/bash\necho uv "$@"\n')
            shutil.copytree(SCRIPTS, home / "tpu_scripts")
            (home / "status").write_text("0")
            (home.parent / "mounted").touch()
        self.write("node", f"READY {workers}\n")
        path = f"{root / 'bin'}:{BASE['PATH']}"
        folders = {"HOME": str(root), "FAKE": str(root), "TMPDIR": str(root)}
        self.env = BASE | PLACE | folders | {"PATH": path}

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def calls(self) -> list[str]:
        file = self.root / "calls"
        lines = [line.strip() for line in file.read_text().splitlines()] if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def call(self, name: str, *args: str, **env: str) -> subprocess.CompletedProcess:
        return call(name, *args, **self.env | env)

    def start(self, *args: str) -> subprocess.Popen:
        """run.sh while every worker's training is held, until all have begun."""
        for home in self.homes:
            (home / "hold").touch()
        command = [str(SCRIPTS / "run.sh"), "--config", "x.py", ON_BUCKET, *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        run = subprocess.Popen(command, env=self.env, start_new_session=True, **pipes)
        wait_for(lambda: all("medsjax.train" in log(home) for home in self.homes))
        return run

    def let_go(self) -> None:
        for home in self.homes:
            (home / "hold").unlink(missing_ok=True)
            wait_for(lambda home=home: not home.exists() or (home / ".train.exit").exists())


def log(home: Path) -> str:
    return (home / "train.log").read_text() if (home / "train.log").exists() else ""


def wait_for(done) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def call(name: str, *args: str, **env: str) -> subprocess.CompletedProcess:
    command = [str(SCRIPTS / f"{name}.sh"), *args]
    return subprocess.run(command, env=BASE | env, capture_output=True, text=True, timeout=20)
