#!/usr/bin/env bash
# The mini recipe of S3Net: synthetic speech in three languages, a sub-network of one small model for
# each, recognition. All options are those of s3net.sh (./run.sh --help); the values below are
# defaults of this recipe.
#
#   ./run.sh                                               # minutes on two CPU cores
#   ./run.sh --tasks "asr st" --expdir exp/asr_st          # translation too
#   ./run.sh --rates "10 30 50 70 90" --stop_stage score \
#       --compare_to s3net_magnitude_30                    # a sweep of the pruning rate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./s3net.sh --tasks asr --methods "average lors task_arithmetic masked_magnitude masked_taylor" \
    --lora_config conf/train_lora.yaml "$@"
