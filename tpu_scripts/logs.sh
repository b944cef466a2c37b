#!/usr/bin/env bash
# Show the end of a worker's log, and follow it while a run is going. Ctrl-C leaves the run alone.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a tpu_scripts/logs.sh [--dry-run] [--worker N]
#
# --worker     which one, from 0; by default 0
# TPU_PROJECT  by default gcloud's own
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
need_place
worker=0
case ${ARGS[0]:-} in
  --worker=*) worker=${ARGS[0]#*=} && ARGS=("${ARGS[@]:1}") ;;
  --worker) worker=${ARGS[1]:-} && ARGS=("${ARGS[@]:2}") ;;
esac
no_arguments
[[ $worker =~ ^[0-9]+$ ]] || fail "--worker $worker: a number, from 0"
worker=$((10#$worker))
need_ready
[[ $DRY_RUN -eq 1 || $worker -lt $WORKERS ]] ||
  fail "--worker $worker: $TPU_NAME has $WORKERS, from 0 to $((WORKERS - 1))"
on_worker "$worker" "medsjax/tpu_scripts/worker.sh log"
