#!/usr/bin/env bash
# Train on every worker and follow the log of worker 0. Ctrl-C leaves the run going; the same command
# resumes it.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a tpu_scripts/run.sh [--dry-run] --config medsins.py ...
#
# TPU_PROJECT  by default gcloud's own
#
# Everything from --config on goes to python -m medsjax.train, on every worker in ~/medsjax. Its log
# is train.log there: tpu_scripts/logs.sh. If a run is going already, nothing is started and its log
# is followed. At the end every worker says its exit code; this script's is the first that is not 0.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
need_place
[[ ${#ARGS[@]} -gt 0 ]] || fail "--config is missing: such as tpu_scripts/run.sh --config demo.py"

# The value of --config.workdir, which may stand in the next argument; the last one counts.
workdir="" next=0
for arg in "${ARGS[@]}"; do
  [[ $next -eq 0 ]] || workdir=$arg
  next=0
  case $arg in
    --config.workdir) next=1 ;;
    --config.workdir=*) workdir=${arg#*=} ;;
  esac
done

need_ready
if [[ $WORKERS -gt 1 && $workdir != ../bucket/?* && $workdir != /*/bucket/?* ]]; then
  fail "--config.workdir=$workdir: $WORKERS workers share one folder, so it must lie on the bucket; \
take --config.workdir=../bucket/runs/NAME"
fi
state="medsjax/tpu_scripts/worker.sh state"
[[ "${ARGS[*]}" != *bucket/* ]] || state+=" bucket"
train=$(printf '%q ' medsjax/tpu_scripts/worker.sh train "${ARGS[@]}")
if [[ $DRY_RUN -eq 1 ]]; then
  on_workers "$state"
  on_workers "$train"
  exit 0
fi

states=$(on_workers "$state") || fail "not every worker is ready (see above): tpu_scripts/setup.sh"
going=$(grep -c ': running$' <<<"$states" || true)
if [[ $going -gt 0 && $going -lt $WORKERS ]]; then
  idle=$(sed -n 's/: idle$//p' <<<"$states" | sort | paste -sd , -)
  fail "a run is going, but not on $idle: wait until it has ended, or tpu_scripts/stop.sh ends it"
fi
[[ $going -eq 0 ]] || echo "a run is going already; its log:"
code=0
on_workers "$train" || code=$?
[[ $code -eq 0 ]] || need_ready
exit "$code"
