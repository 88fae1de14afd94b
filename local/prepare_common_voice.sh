#!/usr/bin/env bash
# Make Kaldi data directories from any release of Common Voice; called from a recipe's directory.
# Options: local/prepare_common_voice.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_common_voice "$@"
