#!/usr/bin/env bash
# Usage: local/train_base.sh [options]
#
# Train a base model from scratch, on both tasks of the pool (local/data.sh --pool true); wav2vec2: on
# its audio, by the contrastive loss. Then:
#   espnet_s2t: ./run.sh --base_model EXPDIR/base
#   whisper:    ./run.sh --model_family whisper --base_model EXPDIR/base/model.pth --window SECONDS
#               with the window of --base_config
#   wav2vec2:   ./run.sh --model_family wav2vec2 --base_model EXPDIR/base --tasks asr
#
# Stages (a number or a name):
#   1 data    the pool, as Kaldi data directories (local/data.sh)
#   2 format  16 kHz mono FLAC
#   3 tokens  the vocabulary, for espnet_s2t
#   4 stats   shapes and feature statistics of the training data
#   5 train   the base model
#
# A finished stage is not done again: after an interruption (Ctrl-C, kill -9) call the same command
# again.
#
# shellcheck source-path=SCRIPTDIR/.. disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

## Stages
stage=1      # first stage to run
stop_stage=5 # last stage to run
dry_run=false # print the commands of each stage instead of running them
submit=false # run this script itself as a batch job, so that no terminal has to stay open
## Data and model
langs="de es fr" # languages (Common Voice codes)
model_family=espnet_s2t # espnet_s2t (OWSM and the like), whisper or wav2vec2 (XLSR and the like)
vocab_size=500 # espnet_s2t: number of BPE pieces
base_config="" # training (default: conf/train_base.yaml, conf/train_whisper_base.yaml or conf/train_wav2vec2_base.yaml)
seed=1       # seed of the training
dev_utterances=1000 # dev utterances of each language and task, to choose the best epoch
data_opts="" # more options for local/data.sh, in one word
## Directories
datadir=data/pool # data directories of stage 1
dumpdir=dump/pool # data directories of stage 2
expdir=exp/base_run # EXPDIR/base: the base model
## Jobs
nj=2         # processes of data preparation, threads of training on the CPU
ngpu=0       # GPUs of the training job on each of its nodes (0: train on the CPU)
num_nodes=1  # nodes of the training job, on a cluster

program=local/train_base.sh
. utils/stages.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh
. ./cmd.sh

stages=(data format tokens stats train)
declare -a pairs # set by check_options
check_options train_base
tokens=()
if [ "$model_family" = espnet_s2t ]; then tokens=(--tokens "$expdir/base"); fi
start_run

if begin data "pool of ${langs[*]}"; then
    run_cpu "$cores" "$datadir/log/data.log" local/data.sh --pool true \
        --out "$datadir" --langs "${langs[*]}" --nj "$cores" "${data_opts[@]}"
fi

if begin format "16 kHz mono FLAC in $dumpdir"; then
    run_cpu "$cores" "$dumpdir/log/format.log" \
        "$python" -m lors.bin.format_audio --data "$datadir" --dump "$dumpdir" \
        --langs "${langs[@]}" --splits train dev --nj "$cores"
fi

if begin tokens "vocabulary in $expdir/base"; then
    if [ "$model_family" = espnet_s2t ] && [ ! -e "$expdir/base/tokens.txt" ]; then
        run_cpu 1 "$expdir/log/train_tokenizer.log" \
            "$python" -m lors.bin.train_tokenizer --dump "$dumpdir" --langs "${langs[@]}" \
            --config "$base_config" --vocab_size "$vocab_size" --out "$expdir/base"
    fi
fi

if begin stats "shapes and feature statistics of the training data"; then
    run "${train_cmd[@]}" --num_threads "$cores" "$expdir/log/stats.log" \
        "$python" -m lors.bin.train "${tokens[@]}" --pairs "${pairs[@]}" --dump "$dumpdir" \
        --config "$base_config" --dev_utterances "$dev_utterances" \
        --collect_stats --out "$expdir/stats"
fi

if begin train "base model in $expdir/base"; then
    run_train "$cores" "$expdir/log/train.log" \
        "$python" -m lors.bin.train "${tokens[@]}" --pairs "${pairs[@]}" --dump "$dumpdir" \
        --config "$base_config" --dev_utterances "$dev_utterances" --stats "$expdir/stats" \
        --seed "$seed" --ngpu "$ngpu" --num_nodes "$num_nodes" --out "$expdir/base"
fi

end_run
