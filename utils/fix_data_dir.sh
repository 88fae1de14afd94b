#!/usr/bin/env bash
# Sort the files of a Kaldi data directory and keep only complete utterances.
# Options: utils/fix_data_dir.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/python.sh" -m lors.bin.data_dir fix "$@"
