#!/usr/bin/env bash
# Make Kaldi data directories from LibriSpeech; called from a recipe's directory.
# Options: local/prepare_librispeech.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_librispeech "$@"
