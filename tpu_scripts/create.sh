#!/usr/bin/env bash
# Ask Google Cloud for one TPU VM and wait until it is there.
#
#   TPU_NAME=medsjax TPU_ZONE=us-east5-a TPU_TYPE=v5p-8 tpu_scripts/create.sh [--dry-run]
#
# TPU_NAME     its name, also of the queued resource that holds it
# TPU_ZONE     a zone that has the type
# TPU_TYPE     what one VM can hold: v4-8, v5p-8, v5litepod-1/4/8, v6e-1/4/8
# TPU_RUNTIME  software version; by default the one for the type
# TPU_SPOT     1: cheaper, and may be taken away at any time
# TPU_PROJECT  by default gcloud's own
#
# Costs money from the moment it is ACTIVE until tpu_scripts/delete.sh.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
[[ -n ${TPU_TYPE:-} ]] || fail "TPU_TYPE is not set: such as TPU_TYPE=v5p-8"

case $TPU_TYPE in
  v4-8) runtime=tpu-ubuntu2204-base ;;
  v5p-8) runtime=v2-alpha-tpuv5 ;;
  v5litepod-[148]) runtime=v2-alpha-tpuv5-lite ;;
  v6e-[148]) runtime=v2-alpha-tpuv6e ;;
  *) fail "TPU_TYPE=$TPU_TYPE: not one VM; use v4-8, v5p-8, v5litepod-1/4/8 or v6e-1/4/8" ;;
esac

request=(gcloud compute tpus queued-resources create "$TPU_NAME" --node-id "$TPU_NAME")
request+=("${PLACE[@]}" --accelerator-type "$TPU_TYPE")
request+=(--runtime-version "${TPU_RUNTIME:-$runtime}")
[[ ${TPU_SPOT:-0} != 1 ]] || request+=(--spot)
ask=(gcloud compute tpus queued-resources describe "$TPU_NAME" "${PLACE[@]}")
ask+=(--format "value(state.state)")

run "${request[@]}"
if [[ $DRY_RUN -eq 1 ]]; then
  run "${ask[@]}"
  exit 0
fi
while true; do
  state=$("${ask[@]}")
  echo "$(date +%H:%M:%S) $TPU_NAME: $state"
  case $state in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDED) fail "$TPU_NAME is $state: run tpu_scripts/delete.sh, then try again" ;;
  esac
  sleep 30
done
