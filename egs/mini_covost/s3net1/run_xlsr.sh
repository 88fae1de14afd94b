#!/usr/bin/env bash
# Usage: ./run_xlsr.sh [--expdir exp/xlsr] [options of run.sh]
#
# S3Net as in its paper, on a self-supervised encoder with the architecture of XLSR: language-adaptive
# pre-training under the masks of the languages, then multi-lingual CTC fine-tuning; compared with plain
# continued pre-training, and with no further pre-training. Experiments: EXPDIR_pretrain, EXPDIR_adapted
# and EXPDIR.
#
#   (cd ../lors1 && local/train_base.sh --model_family wav2vec2 --expdir exp/base_wav2vec2)
#   ./run_xlsr.sh                          # other options go to all three calls of run.sh
#   ./run_xlsr.sh --criteria "magnitude taylor" --methods "average lors"
#   ./run_xlsr.sh --seed 2 --expdir exp/xlsr_seed2
#   ./run_xlsr.sh --base_model facebook/wav2vec2-xls-r-300m --expdir exp/xlsr_300m \
#       --pretrain_config conf/my_pretrain.yaml --finetune_config conf/my_finetune.yaml
#
# Options of this script; of those of run.sh, the defaults of --criteria and --methods are other ones:
#   --expdir exp/xlsr                      what the names of the three experiments begin with
#   --pretrain_config conf/train_wav2vec2_pretrain.yaml   pre-training, the first call
#   --finetune_config conf/train_wav2vec2.yaml            CTC fine-tuning, the other two
#   --criteria taylor --methods average
#
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. utils/log.sh

expdir=exp/xlsr baselines=joint given=()
pretrain_config=conf/train_wav2vec2_pretrain.yaml finetune_config=conf/train_wav2vec2.yaml
while [ $# -gt 0 ]; do
    name=
    if [ "$1" = -h ]; then name=help; fi
    if [[ $1 =~ ^--([a-z0-9_-]+)(=.*)?$ ]]; then name=${BASH_REMATCH[1]//-/_}; fi
    case $name in
    help)
        sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//p}' run_xlsr.sh
        exec ./run.sh --help
        ;;
    expdir | baselines | pretrain_config | finetune_config)
        if [[ $1 == *=* ]]; then
            value=${1#*=}
        elif [[ $# -lt 2 || $2 == --* ]]; then
            die -2 "$1 needs a value"
        else
            value=$2
            shift
        fi
        if [[ -z $value && $name != baselines ]]; then die -2 "--$name needs a value"; fi
        printf -v "$name" '%s' "$value"
        ;;
    model_family | train_config | s3net_config | lora_config | pretrained | mask_rounds | \
        stage | stop_stage | submit)
        die -2 "an option that cannot be given here" "where: $1" \
            "expected: --expdir, --pretrain_config, --finetune_config, or what all runs can have" \
            "what to do: call ./run.sh as the last lines of run_xlsr.sh do"
        ;;
    *) given+=("$1") ;;
    esac
    shift
done
# The baselines of the second experiment begin with the joint model of the first.
if [[ -n $baselines && " $baselines " != *" joint "* ]]; then
    die -2 "baselines without the joint model, with which those after the pre-training begin" \
        "where: --baselines" "expected: joint and others, or none ('')" "got: $baselines"
fi

# Run ./run.sh; what the script sets comes after what the user has given.
recipe() {
    ./run.sh --base_model ../lors1/exp/base_wav2vec2/base --criteria taylor --methods average \
        "${given[@]}" --baselines "$baselines" --model_family wav2vec2 --lora_config "" "$@"
}

# Only check the options of a call.
check() {
    local said status=0
    said=$(recipe "$@" --dry_run true 2>&1 >/dev/null) || status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$said" >&2
        exit "$status"
    fi
}

# Call $1 for each of the three experiments.
experiments() {
    # Masks by the contrastive loss; joint: plain continued pre-training; s3net_*: language-adaptive.
    "$1" --train_config "$pretrain_config" --expdir "${expdir}_pretrain" --stop_stage subnets
    # CTC fine-tuning of both; a row s3net_* keeps its masks. The base model is that of the pre-training,
    # whose CTC layer has the characters of its data: less data may lack some.
    "$1" --train_config "$finetune_config" --pretrained "${expdir}_pretrain" --base_model "" \
        --expdir "${expdir}_adapted"
    # The same without further pre-training: masks by the CTC loss.
    "$1" --train_config "$finetune_config" --base_model "${expdir}_pretrain/base" --expdir "$expdir"
}

experiments check # a slip in an option of the third call costs no hours of the first
experiments recipe
