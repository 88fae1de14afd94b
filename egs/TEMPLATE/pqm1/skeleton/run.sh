#!/usr/bin/env bash
# Adaptation of a quantised model to the speakers of one corpus, with the languages and the base model
# of db.sh and the training of PQM's authors for Whisper; they decode by beam search, this recipe
# greedily (--inference_config). All options are those of pqm.sh: ./run.sh --help
#
# shellcheck source-path=SCRIPTDIR/../../lors1/skeleton
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./db.sh
exec ./pqm.sh --langs "$LANGS" --model_family "$MODEL_FAMILY" --base_model "$BASE_MODEL" \
    --sat_config conf/train_whisper_pqm.yaml --train_config conf/train_whisper_pqm.yaml "$@"
