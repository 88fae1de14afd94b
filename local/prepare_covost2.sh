#!/usr/bin/env bash
# Make Kaldi data directories from Common Voice and CoVoST 2; called from a recipe's directory.
# Options: local/prepare_covost2.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_covost2 "$@"
