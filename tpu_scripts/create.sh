#!/usr/bin/env bash
# Ask Google Cloud for a TPU, one VM or a slice of several, and wait until it is there.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a TPU_TYPE=v5litepod-32 tpu_scripts/create.sh [--dry-run]
#
# TPU_NAME     its name, also of the queued resource that holds it
# TPU_ZONE     a zone that has the type
# TPU_TYPE     v5litepod-N or v6e-N with N chips: 1, 4 or 8 on one VM, 16 to 256 on several;
#              v4-N or v5p-N with N/2 chips, four a VM: 8, 16, 32, ...
# TPU_RUNTIME  software version; by default the one for the type
# TPU_SPOT     1: cheaper, and may be taken away at any time
# TPU_PROJECT  by default gcloud's own
#
# Costs money from the moment it is ACTIVE until tpu_scripts/delete.sh. Ctrl-C ends the waiting, not
# the request; the same command waits on.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
[[ -n ${TPU_TYPE:-} ]] || fail "TPU_TYPE is not set: such as TPU_TYPE=v5litepod-32"

wrong="TPU_TYPE=$TPU_TYPE: use v5litepod-N or v6e-N (N chips: 1, 4, 8, 16, 32, 64, 128, 256), or \
v4-N or v5p-N (N/2 chips: 8, 16, 32, ...)"
n=${TPU_TYPE##*-}
case $n in
  [1-9] | [1-9][0-9] | [1-9][0-9][0-9] | [1-9][0-9][0-9][0-9]) ;;
  *) fail "$wrong" ;;
esac
case ${TPU_TYPE%-*} in
  v4) runtime=tpu-ubuntu2204-base ;;
  v5p) runtime=v2-alpha-tpuv5 ;;
  v5litepod) runtime=v2-alpha-tpuv5-lite ;;
  v6e) runtime=v2-alpha-tpuv6e ;;
  *) fail "$wrong" ;;
esac
case $TPU_TYPE in
  v4-* | v5p-*) ((n % 8 == 0)) || fail "$wrong" ;;
  *) [[ $n =~ ^(1|4|8|16|32|64|128|256)$ ]] || fail "$wrong" ;;
esac

request=(gcloud compute tpus queued-resources create "$TPU_NAME" --node-id "$TPU_NAME")
request+=("${PLACE[@]}" --accelerator-type "$TPU_TYPE")
request+=(--runtime-version "${TPU_RUNTIME:-$runtime}")
[[ ${TPU_SPOT:-0} != 1 ]] || request+=(--spot)
describe=(gcloud compute tpus queued-resources describe "$TPU_NAME" "${PLACE[@]}" --format)
state=("${describe[@]}" "value(state.state)")
again="tpu_scripts/delete.sh, then tpu_scripts/create.sh again"

if [[ $DRY_RUN -eq 1 ]]; then
  run "${request[@]}"
  run "${state[@]}"
  exit 0
fi
if "${state[@]}" >/dev/null 2>&1; then
  echo "$TPU_NAME has been asked for already"
else
  "${request[@]}"
fi
while true; do
  now=$("${state[@]}") || fail "gcloud gives no answer (see above); the same command waits on"
  case $now in
    ACTIVE) hint=": ready; next is tpu_scripts/setup.sh" ;;
    WAITING_FOR_RESOURCES) hint=": in the queue until $TPU_ZONE has a $TPU_TYPE to give" ;;
    PROVISIONING) hint=": its VMs are being made" ;;
    FAILED)
      why=$("${describe[@]}" "value(state.failedData.error.message)" || true)
      fail "$TPU_NAME is FAILED: ${why:-no reason is given}; $again"
      ;;
    SUSPENDING | SUSPENDED)
      fail "$TPU_NAME is $now: taken back, as spot TPUs are, or its VMs were deleted; $again"
      ;;
    DELETING) fail "$TPU_NAME is DELETING: try again when it is gone" ;;
    *) hint="" ;;
  esac
  echo "$(date +%H:%M:%S) $TPU_NAME is $now$hint"
  [[ $now != ACTIVE ]] || exit 0
  sleep 30
done
