#!/usr/bin/env bash
# The part of the other scripts that runs on a worker, where setup.sh has put it.
set -euo pipefail
cd "$(dirname "$0")/.."

# What Cloud TPU tells a VM; JAX learns from the same place which worker it is.
metadata() {
  curl -sf --max-time 2 --retry 2 -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

worker=$(metadata agent-worker-number || echo 0)

fail() {
  echo "error: worker $worker: $1" >&2
  exit 2
}

# The lock is held as long as the run lives, so a second run never writes to the same workdir.
running() {
  [[ -e .train.lock ]] && ! flock --nonblock .train.lock true
}

setup() {
  # The VM's own Python is older than 3.11; uv brings one.
  [[ -x ~/.local/bin/uv ]] || curl -LsSf https://astral.sh/uv/install.sh | sh
  [[ -d .venv ]] || ~/.local/bin/uv venv --python 3.12 .venv
  ~/.local/bin/uv pip install --quiet --python .venv/bin/python -e ".[tpu]"
  [[ -z ${1:-} ]] || mount_bucket "$1"
  echo "worker $worker: set up"
}

mount_bucket() {
  local flag=--metadata-cache-negative-ttl-secs probe=~/bucket/.medsjax-probe-$worker
  local mounted
  grep -q -e $flag <<<"$(gcsfuse --help 2>&1)" || install_gcsfuse
  mkdir -p ~/bucket
  # A service of its own: a mount that belongs to this login would be ended together with the
  # training when the VM shuts down, before the last checkpoint is written. Without caches, as what
  # one worker writes the others must see.
  if mountpoint -q ~/bucket; then
    mounted=$(findmnt -no SOURCE ~/bucket) # gcsfuse mounts a bucket by its name
    [[ $mounted == "$1" ]] ||
      fail "$mounted is mounted, not $1; sudo systemctl stop medsjax-bucket ends that"
  else
    sudo systemd-run --quiet --collect --unit=medsjax-bucket --service-type=forking \
      --uid="$(id -u)" --gid="$(id -g)" --property=After=network-online.target \
      --property=Before=systemd-user-sessions.service \
      "$(command -v gcsfuse)" --implicit-dirs --metadata-cache-ttl-secs=0 $flag=0 "$1" ~/bucket ||
      fail "$1 cannot be mounted: sudo journalctl -u medsjax-bucket says why"
  fi
  # A checkpoint appears by the renaming of its folder: better to learn now that the bucket cannot.
  rm -rf "$probe" "$probe.moved"
  if ! { mkdir "$probe" && touch "$probe/file"; }; then
    fail "$1 cannot be written; see tpu_scripts/README.md"
  fi
  if ! mv -T "$probe" "$probe.moved"; then
    rm -rf "$probe"
    fail "$1 cannot rename folders; make one with --enable-hierarchical-namespace"
  fi
  rm -rf "$probe.moved"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc apt=https://packages.cloud.google.com/apt
  curl -sSf $apt/doc/apt-key.gpg | sudo tee $key >/dev/null
  echo "deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A new VM updates itself for its first minutes.
  sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq gcsfuse
}

# All workers at once: the chips of a slice come up together or not at all.
chips() {
  local n
  n=$(metadata worker-network-endpoints | tr , '\n' | grep -c .) || n=1
  JAX_COORDINATOR_PORT=${JAX_COORDINATOR_PORT:-8476} .venv/bin/python -c "
import jax
if $n > 1:
    jax.distributed.initialize()
kind = jax.local_devices()[0].device_kind
print('worker $worker: jax', jax.__version__, 'with', jax.local_device_count(), 'of',
      jax.device_count(), 'chips,', kind)"
}

# What run.sh must know of every worker before it starts anything; "bucket": the run needs it.
state() {
  [[ -x .venv/bin/python ]] || fail "not set up; run tpu_scripts/setup.sh"
  [[ ${1:-} != bucket ]] || mountpoint -q ~/bucket ||
    fail "no bucket is mounted; TPU_BUCKET=my-bucket tpu_scripts/setup.sh does it"
  if running; then echo "worker $worker: running"; else echo "worker $worker: idle"; fi
}

# Start training, unless it is going, and stay until it ends; worker 0 shows its log.
train() {
  local first status
  touch train.log
  first=+$(($(wc -l <train.log) + 1)) # a log goes on over all runs
  exec 9>>.train.lock
  if flock --nonblock 9; then
    rm -f .train.exit
    nohup setsid tpu_scripts/worker.sh supervise "$@" >>train.log 2>&1 </dev/null &
    echo $! >.train.pid
  else
    first=20
  fi
  exec 9>&-
  if [[ $worker == 0 ]]; then
    tail -n "$first" -s 0.2 -F --pid="$(<.train.pid)" train.log 2>/dev/null
  else
    tail -s 0.2 -f --pid="$(<.train.pid)" /dev/null
  fi
  status=$(cat .train.exit 2>/dev/null) || fail "the run was killed; logs.sh shows how far it came"
  if [[ $worker != 0 && $status != 0 ]]; then
    tail -n 5 train.log | sed "s/^/worker $worker: /"
  fi
  echo "worker $worker: exit code $status"
  exit "$status"
}

# Holds the lock that `train` took (file 9) and keeps the exit code. A shutdown sends SIGTERM to all
# processes of a login, then SIGHUP: Python saves a checkpoint at the first and, by nohup, ignores the
# second; this shell ignores both and ends after Python.
supervise() {
  local status
  trap '' TERM
  env --default-signal=TERM .venv/bin/python -m medsjax.train "$@" && status=0 || status=$?
  echo "$status" >.train.exit
}

log() {
  [[ -e train.log ]] || fail "no run has been started"
  if running; then
    tail -n 200 -s 0.2 -F --pid="$(<.train.pid)" train.log
  else
    tail -n 200 train.log
  fi
  echo "worker $worker: exit code $(cat .train.exit 2>/dev/null || echo unknown)"
}

# Python saves a checkpoint at SIGTERM.
stop() {
  running || { echo "worker $worker: no run is going" && exit 0; }
  pkill -TERM -P "$(<.train.pid)" || true
  tail -s 0.2 -f --pid="$(<.train.pid)" /dev/null
  echo "worker $worker: exit code $(cat .train.exit 2>/dev/null || echo unknown)"
}

"$@"
