#!/usr/bin/env bash
# Make Kaldi data directories from the manifest of a user's own corpus; called from a recipe's
# directory.
# Options: local/prepare_manifest.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
exec "$python" -m lors.bin.prepare_manifest "$@"
