#!/usr/bin/env bash
# Delete the TPU, all its VMs, and the queued resource that holds it. What is on its disks is lost.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a tpu_scripts/delete.sh [--dry-run]
#
# TPU_PROJECT  by default gcloud's own
#
# gcloud asks before it deletes. tpu_scripts/stop.sh before it saves a run's last steps.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
run gcloud compute tpus queued-resources delete "$TPU_NAME" "${PLACE[@]}" --force ||
  fail "$TPU_NAME is not deleted (see above) and may cost money"
