#!/usr/bin/env bash
# Kaldi data directories from Common Voice alone, of any release; called from a recipe's directory.
# Options: local/prepare_common_voice.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_common_voice "$@"
