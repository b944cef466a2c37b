#!/usr/bin/env bash
# Put this checkout and its dependencies on every worker. May be run again: it updates what is there.
#
#   TPU_NAME=medsjax TPU_ZONE=us-west4-a tpu_scripts/setup.sh [--dry-run]
#
# TPU_BUCKET      a Cloud Storage bucket to mount at ~/bucket (with gcsfuse), for data and runs
# TPU_TOKEN_FILE  a file with a Hugging Face token, for weights that need one: copied to every
#                 worker, for its user alone; "hf auth login" here makes ~/.cache/huggingface/token
# TPU_PROJECT     by default gcloud's own
#
# Copies the files git knows, as they are now, to ~/medsjax; data and runs stay where they are. At
# the end every worker names its chips.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
token=${TPU_TOKEN_FILE:-}
[[ -z $token || -s $token ]] || fail "TPU_TOKEN_FILE=$token: no such file, or it is empty"
[[ -z $token ]] || token=$(realpath "$token")
need_ready
cd "$(dirname "$0")/.."

archive=${TMPDIR:-/tmp}/medsjax-$TPU_NAME.tgz
[[ $DRY_RUN -eq 1 ]] || trap 'rm -f "$archive"' EXIT
git ls-files --error-unmatch tpu_scripts/setup.sh >/dev/null ||
  fail "this is no git checkout (see above), and what git knows is what is copied"
new=$(git ls-files --others --exclude-standard -- '*.py')
[[ -z $new ]] || echo "not copied, as git does not know it (git add): ${new//$'\n'/, }" >&2
there="while IFS= read -rd '' file; do [[ ! -e \$file ]] || printf '%s\0' \"\$file\"; done"
run bash -o pipefail -c \
  "git ls-files -z | $there | tar --null --files-from=- -czf $(printf %q "$archive")"
to_workers "$archive" medsjax.tgz
bucket=${TPU_BUCKET:-}
on_workers "set -e; mkdir -p medsjax; cd medsjax
flock --nonblock .train.lock true ||
  { echo 'error: a run is going; tpu_scripts/stop.sh ends it' >&2; exit 2; }
tar xzf ../medsjax.tgz
tpu_scripts/worker.sh setup $(printf %q "${bucket#gs://}")"
if [[ -n $token ]]; then
  file=.cache/huggingface/token
  on_workers "umask 077; mkdir -p ${file%/*} && touch $file && chmod 600 $file"
  to_workers "$token" "$file"
fi
on_workers "medsjax/tpu_scripts/worker.sh chips"
