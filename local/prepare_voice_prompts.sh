#!/usr/bin/env bash
# Make Kaldi data directories from packages of voice prompts; called from a recipe's directory.
# Options: local/prepare_voice_prompts.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_voice_prompts "$@"
