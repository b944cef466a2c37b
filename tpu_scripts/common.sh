# Sourced by the other scripts: options, settings from the environment, and how a command is run.
# shellcheck shell=bash

DRY_RUN=0

# Print the comment block under the shebang: every script's help is its own head.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
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
  [[ -n ${TPU_ZONE:-} ]] || fail "TPU_ZONE is not set: the zone, such as TPU_ZONE=us-east5-a"
  PLACE=(--zone "$TPU_ZONE")
  [[ -z ${TPU_PROJECT:-} ]] || PLACE+=(--project "$TPU_PROJECT")
  [[ $DRY_RUN -eq 1 ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
}

# Run a command, or with --dry-run print it in a form that can be pasted.
run() {
  if [[ $DRY_RUN -eq 1 ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

# Run a command line on the VM.
on_vm() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${PLACE[@]}" --command "$1"
}
