# Sourced by the other scripts: options, settings from the environment, and how a command is run.
# shellcheck shell=bash

DRY_RUN=0

# Print the comment block under the shebang: every script's help is its own head.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
}

# Take --help and --dry-run where they stand first; what follows is left in ARGS.
parse() {
  while [[ $# -gt 0 ]]; do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --dry-run) DRY_RUN=1 && shift ;;
      *) break ;;
    esac
  done
  ARGS=("$@")
}

fail() {
  echo "error: $1" >&2
  exit 2
}

no_arguments() {
  [[ ${#ARGS[@]} -eq 0 ]] || fail "${ARGS[0]}: takes no such argument; see --help"
}

# Which TPU: TPU_NAME and TPU_ZONE, and TPU_PROJECT where gcloud's default is another.
need_place() {
  [[ -n ${TPU_NAME:-} ]] || fail "TPU_NAME is not set: the TPU's name, such as TPU_NAME=medsjax"
  [[ -n ${TPU_ZONE:-} ]] || fail "TPU_ZONE is not set: the zone, such as TPU_ZONE=us-west4-a"
  PLACE=(--zone "$TPU_ZONE")
  [[ -z ${TPU_PROJECT:-} ]] || PLACE+=(--project "$TPU_PROJECT")
  [[ $DRY_RUN -eq 1 ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
}

# Refuse a TPU that cannot be worked on; WORKERS is the number of its VMs (0 in a dry run).
need_ready() {
  local state ask=(gcloud compute tpus tpu-vm describe "$TPU_NAME" "${PLACE[@]}")
  ask+=(--format "value[separator=' '](state,networkEndpoints.len())")
  WORKERS=0
  [[ $DRY_RUN -eq 0 ]] || { run "${ask[@]}" && return; }
  state=$("${ask[@]}") ||
    fail "$TPU_NAME: not there (see above); made by tpu_scripts/create.sh, or taken back by now"
  # shellcheck disable=SC2034
  read -r state WORKERS <<<"$state"
  case $state in
    READY) ;;
    PREEMPTED | TERMINATED)
      fail "$TPU_NAME is $state, taken back: delete.sh, create.sh, setup.sh, and run.sh resumes"
      ;;
    *) fail "$TPU_NAME is $state, not READY: try again in a minute" ;;
  esac
}

# Run a command, or with --dry-run print it in a form that can be pasted.
run() {
  if [[ $DRY_RUN -eq 1 ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

# Run a command line on every worker at once; gcloud ends with the first exit code that is not 0.
on_workers() {
  on_worker all "$1"
}

on_worker() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${PLACE[@]}" "--worker=$1" --command "$2"
}

# Copy a file to a place in every worker's home.
to_workers() {
  run gcloud compute tpus tpu-vm scp "$1" "$TPU_NAME:$2" "${PLACE[@]}" --worker=all
}
