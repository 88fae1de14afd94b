#!/usr/bin/env bash
# Check Kaldi data directories and print all their problems.
# Options: utils/validate_data_dir.sh --help
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/python.sh" -m lors.bin.validate_data_dir "$@"
