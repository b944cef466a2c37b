#!/usr/bin/env bash
# End the run on every worker: it saves a checkpoint first, and tpu_scripts/run.sh resumes it.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a tpu_scripts/stop.sh [--dry-run]
#
# TPU_PROJECT  by default gcloud's own
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
need_ready
on_workers "medsjax/tpu_scripts/worker.sh stop"
