#!/usr/bin/env bash
# Train on the TPU VM and follow the log. Ctrl-C leaves the run going; the same command resumes it.
#
#   TPU_NAME=medsjax TPU_ZONE=us-east5-a tpu_scripts/run.sh [--dry-run] --config medsins.py ...
#
# TPU_PROJECT  by default gcloud's own
#
# Everything from --config on goes to python -m medsjax.train. The log is ~/medsjax/train.log.
# If a run is going already, nothing is started and its log is followed.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
need_place
[[ ${#ARGS[@]} -gt 0 ]] || fail "--config is missing: such as tpu_scripts/run.sh --config demo.py"
train=$(printf '%q ' .venv/bin/python -m medsjax.train "${ARGS[@]}")

# The lock is held as long as the run lives, so a second run never writes to the same workdir.
on_vm "cd medsjax || exit 1
touch train.log
if ! flock --nonblock .train.lock true; then
  echo 'a run is going already; its log:'
  exec tail -n 20 -F train.log
fi
first=\$((\$(wc -l <train.log) + 1))
nohup flock --nonblock .train.lock ${train}>>train.log 2>&1 </dev/null &
tail -n +\$first -F --pid=\$! train.log
wait \$!"
