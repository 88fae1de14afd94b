#!/usr/bin/env bash
# Adaptation of a quantised Whisper to the ten LibriSpeech speakers of PQM's authors.
#
# db.sh has the place of the corpus. All options are those of pqm.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./pqm.sh --model_family whisper --base_model base.en --langs en --splits train \
    --partition conf/speakers.yaml --least_test 1 \
    --sat_config conf/train_whisper_pqm.yaml --train_config conf/train_whisper_pqm.yaml \
    --inference_config conf/inference_whisper_pqm.yaml "$@"
