#!/usr/bin/env bash
# The recipe of one corpus, with the languages and the base model of db.sh. All options are those of
# lors.sh: ./run.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./db.sh
exec ./lors.sh --langs "$LANGS" --model_family "$MODEL_FAMILY" --base_model "$BASE_MODEL" "$@"
