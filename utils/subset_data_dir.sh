#!/usr/bin/env bash
# Write a part of a Kaldi data directory as another one.
# Options: utils/subset_data_dir.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/python.sh" -m lors.bin.data_dir subset "$@"
