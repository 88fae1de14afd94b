#!/usr/bin/env bash
# Make a synthetic corpus in the layout of Common Voice 4 and CoVoST 2 with espeak-ng; called from a
# recipe's directory. Options: local/make_espeak_corpus.sh --help
# shellcheck source-path=SCRIPTDIR/../egs/TEMPLATE/lors1
set -euo pipefail
. ./path.sh
utils/install.sh --system_packages espeak-ng >/dev/null
exec "$python" -m lors.bin.make_espeak_corpus "$@"
