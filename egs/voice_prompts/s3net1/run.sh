#!/usr/bin/env bash
# S3Net on voice prompts with the official Whisper-base: real speech in five languages, a sub-network
# for each, recognition, and translation of four of them into English.
#
#   ./run.sh                                   # hours on two CPU cores
#   ./run.sh --langs "es fr" --tasks asr --lora_config conf/train_lora_asr.yaml \
#       --expdir exp/es_fr                     # a part of it
#   ./run.sh --stage base --datadir ../lors1/data --dumpdir ../lors1/dump # with the data of lors1
#
# db.sh has the place of the packages. All options are those of s3net.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./s3net.sh --model_family whisper --base_model base --window auto --base_window 10 \
    --langs "en es fr it ru" --tasks "asr st" \
    --methods "average task_arithmetic lors lors+boost masked_magnitude masked_taylor" \
    --train_config conf/train_quick.yaml --lora_config conf/train_lora.yaml --nj 2 "$@"
