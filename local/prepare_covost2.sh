#!/usr/bin/env bash
# Kaldi data directories from Common Voice and CoVoST 2; called from a recipe's directory.
# Options: local/prepare_covost2.sh --help
set -euo pipefail
. ./path.sh
# shellcheck disable=SC2154 # path.sh sets it
exec "$python" -m lors.bin.prepare_covost2 "$@"
