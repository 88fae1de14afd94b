#!/usr/bin/env bash
# Voice prompts with the official Whisper-base: real speech in five languages, recognition, and
# translation of four of them into English.
#
#   ./run.sh                                   # one to two hours on two CPU cores
#   ./run.sh --langs "es fr" --tasks asr --expdir exp/es_fr   # a part of it
#
# db.sh has the place of the packages. All options are those of lors.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./lors.sh --model_family whisper --base_model base --window auto --base_window 10 \
    --langs "en es fr it ru" --tasks "asr st" --baselines "joint sequential" \
    --train_config conf/train_quick.yaml --tune_config conf/tune_quick.yaml --nj 2 "$@"
