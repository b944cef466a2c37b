#!/usr/bin/env bash
# Delete the TPU VM and the queued resource that holds it. Its disk, runs included, is lost.
#
#   TPU_NAME=medsjax TPU_ZONE=us-east5-a tpu_scripts/delete.sh [--dry-run]
#
# TPU_PROJECT  by default gcloud's own
#
# gcloud asks before it deletes.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
run gcloud compute tpus queued-resources delete "$TPU_NAME" "${PLACE[@]}" --force
