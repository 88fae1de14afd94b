#!/usr/bin/env bash
# CoVoST 2 with Whisper-small, as in the paper: recognition and translation into English, one group
# of five languages at a time, five hours of speech for each language.
#
#   ./run.sh --ngpu 1 --device cuda                                  # ca de es fr it
#   ./run.sh --ngpu 1 --device cuda --group low --expdir exp/low     # id nl pt ru sv-SE
#
# db.sh has the paths of the corpora. All options are those of lors.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
high="ca de es fr it"
low="id nl pt ru sv-SE"
exec ./lors.sh --model_family whisper --base_model small \
    --langs "$high" --groups "high: $high; low: $low" --tasks "asr st" --train_hours 5 \
    --baselines "joint sequential" "$@"
