#!/usr/bin/env bash
# Speech recognition on any release of Common Voice with Whisper-small: the paper's groups of five
# languages, or any others, five hours of speech for each language.
#
#   ./run.sh --ngpu 1 --device cuda                                  # ca de es fr it
#   ./run.sh --ngpu 1 --device cuda --langs "cy eu" --expdir exp/own # other languages
#
# db.sh has the path of the corpus. All options are those of lors.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
high="ca de es fr it"
low="id nl pt ru sv-SE"
exec ./lors.sh --model_family whisper --base_model small \
    --langs "$high" --groups "high: $high; low: $low" --tasks asr --train_hours 5 \
    --baselines "joint sequential" "$@"
