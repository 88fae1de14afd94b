#!/usr/bin/env bash
# S3Net as in its paper, on a self-supervised encoder with the architecture of XLSR: language-adaptive
# pre-training under the masks of the languages, then multi-lingual CTC fine-tuning; compared with plain
# continued pre-training, and with no further pre-training.
#
#   (cd ../lors1 && local/train_base.sh --model_family wav2vec2 --expdir exp/base_wav2vec2)
#   ./run_xlsr.sh                          # options are those of run.sh, for all three runs
#   ./run_xlsr.sh --criteria taylor --methods average
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
common=(--model_family wav2vec2 --base_model ../lors1/exp/base_wav2vec2/base --lora_config "" "$@")
contrastive=conf/train_wav2vec2_pretrain.yaml ctc=conf/train_wav2vec2.yaml

# Masks by the contrastive loss; joint: plain continued pre-training; s3net_*: language-adaptive.
./run.sh "${common[@]}" --train_config "$contrastive" --s3net_config "$contrastive" \
    --expdir exp/xlsr_pretrain --stop_stage subnets
# Fine-tuning of both; a row s3net_* keeps its masks.
./run.sh "${common[@]}" --s3net_config "$ctc" --pretrained exp/xlsr_pretrain --expdir exp/xlsr_adapted
# The same without further pre-training: masks by the CTC loss.
./run.sh "${common[@]}" --s3net_config "$ctc" --expdir exp/xlsr
