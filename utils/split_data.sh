#!/usr/bin/env bash
# Split a Kaldi data directory into parts.
# Options: utils/split_data.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/python.sh" -m lors.bin.data_dir split "$@"
