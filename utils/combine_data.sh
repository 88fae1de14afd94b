#!/usr/bin/env bash
# Join Kaldi data directories.
# Options: utils/combine_data.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/python.sh" -m lors.bin.data_dir combine "$@"
