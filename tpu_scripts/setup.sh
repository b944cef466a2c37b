#!/usr/bin/env bash
# Put this checkout and its dependencies on the TPU VM. May be run again: it updates what is there.
#
#   TPU_NAME=medsjax TPU_ZONE=us-east5-a tpu_scripts/setup.sh [--dry-run]
#
# TPU_BUCKET   a Cloud Storage bucket to mount at ~/bucket (with gcsfuse), for data and runs
# TPU_PROJECT  by default gcloud's own
#
# Copies the files git knows, as they are now, to ~/medsjax; data and runs stay where they are.
set -euo pipefail
# shellcheck source=/dev/null
source "$(dirname "$0")/common.sh"

parse "$@"
no_arguments
need_place
cd "$(dirname "$0")/.."

archive=$(mktemp -d)/medsjax.tgz
trap 'rm -rf "$(dirname "$archive")"' EXIT
run bash -c "git ls-files -z | tar --null --files-from=- -czf '$archive'"
run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:medsjax.tgz" "${PLACE[@]}"

# The VM's own Python is older than 3.11; uv brings one.
on_vm 'set -e
mkdir -p medsjax && tar xzf medsjax.tgz -C medsjax && cd medsjax
[ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d .venv ] || ~/.local/bin/uv venv --python 3.12 .venv
~/.local/bin/uv pip install --python .venv/bin/python -e ".[tpu]"
.venv/bin/python -c "import jax; print(jax.__version__, jax.devices())"'

[[ -n ${TPU_BUCKET:-} ]] || exit 0
on_vm "set -e
if ! command -v gcsfuse >/dev/null; then
  keyring=/usr/share/keyrings/cloud.google.asc
  curl -sSf https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$keyring >/dev/null
  repository=https://packages.cloud.google.com/apt
  echo \"deb [signed-by=\$keyring] \$repository gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq && sudo apt-get install -y -qq gcsfuse
fi
mkdir -p ~/bucket
mountpoint -q ~/bucket || gcsfuse --implicit-dirs $(printf %q "$TPU_BUCKET") ~/bucket
# A checkpoint appears by the renaming of its folder: better to learn now that the bucket cannot.
probe=~/bucket/.medsjax-probe
rm -rf \$probe \$probe.moved && mkdir \$probe && touch \$probe/file
if ! mv -T \$probe \$probe.moved; then
  rm -rf \$probe
  echo 'error: the bucket cannot rename folders; make one with --enable-hierarchical-namespace' >&2
  exit 1
fi
rm -rf \$probe.moved"
