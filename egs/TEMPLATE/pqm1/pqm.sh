#!/usr/bin/env bash
# Usage: ./run.sh [options]
#
# Quantise a base model to 4 bits and adapt it to speakers by small adapters (PQM).
#
# Stages (a number or a name):
#    1 data       the corpus, as Kaldi data directories (local/data.sh)
#    2 format     16 kHz mono FLAC
#    3 speakers   data of each test speaker (to adapt, dev, test), and of all others
#    4 base       the base model
#    5 quantise   the base model in 4 bits (NF4)
#    6 stats      the shapes of the training data that ESPnet needs
#    7 sat        an adapter trained on the other speakers (speaker adaptive training)
#    8 adapt      adapters of each test speaker, from that one and from nothing
#    9 inference  hypotheses of the test sets
#   10 score      WER of each speaker, significance: RESULTS.md (with sizes), plots, report.html
#
# A finished stage is not done again: after an interruption (Ctrl-C, kill -9) call the same command
# again. Results made with other settings are never overwritten; choose another --expdir.
# utils/status [EXPDIR] shows what is done, what runs and what has failed, with the logs.
#
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail

## Stages
stage=1      # first stage to run
stop_stage=10 # last stage to run
skip_train=false # leave out stages 4 to 8; their models are there
dry_run=false # print the commands of each stage instead of running them
submit=false # run this script itself as a batch job, so that no terminal has to stay open
## Data and speakers
langs="de es fr" # languages (Common Voice codes)
tasks=asr    # asr (recognition), st (translation into English), or both
splits="train dev test" # splits that local/data.sh makes
num_speakers="" # test speakers of each language: those with the most utterances (default: 2)
test_speakers="" # ids of the test speakers, in place of --num_speakers; with --partition: some of its speakers
partition="" # test speakers and their dev utterances as a YAML file, in place of --num_speakers, --adapt_utterances and --speaker_dev
own_splits=false # keep the train, dev and test of the corpus for every speaker, in place of --adapt_utterances and --speaker_dev
adapt_utterances="" # utterances of a test speaker to adapt (default: 60)
speaker_dev="" # utterances of a test speaker to choose the best epoch (default: 10); the rest are for tests
least_test=10 # fewest test utterances of a speaker
seed=1       # seed of the training
dev_utterances=1000 # dev utterances of each language or speaker, to choose the best epoch
## Directories
datadir=data # data directories of stage 1
dumpdir=dump # data directories of stage 2
speakerdir=speakers # data directories of stage 3
expdir=exp   # models, hypotheses and results
## Jobs
nj=2         # jobs at the same time
ngpu=0       # GPUs of a training job on each of its nodes (0: train on the CPU)
num_nodes=1  # nodes of a training job, on a cluster
device=cpu   # device of inference: cpu or cuda
## Base model
model_family=espnet_s2t # espnet_s2t (OWSM and the like) or whisper
base_model="" # espnet_s2t: a model directory (base); whisper: name, OpenAI .pt, Hugging Face or CTranslate2 dir; both: org/model on the Hub
window=30    # whisper: seconds that speech is padded to, or auto
base_window="" # whisper: seconds for the rows of the untrained model (default: those of --window)
st_language=source # whisper: language in the prompt of a translation: source or target
double=false # quantise the scales too (double quantisation)
## Configurations; an empty one has the default of --model_family
sat_config=conf/train_sat.yaml # training on the other speakers
train_config=conf/train_speaker.yaml # training on a test speaker
inference_config="" # inference (conf/inference_greedy.yaml, conf/inference_whisper.yaml)
## For local/data.sh
data_opts="" # more options, in one word

program=./run.sh
. utils/stages.sh
. utils/recipe_stages.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh
. ./cmd.sh

stages=(data format speakers base quantise stats sat adapt inference score)
training=(base quantise stats sat adapt)
# Makes arrays of the options that are lists, completes base_model and inference_config, and sets:
declare -a systems import_options speaker_options quantise_options
declare -a speakers others personal # test speakers, pairs of the pre-training, pairs of test speakers
check_options pqm
training_clips=() report_options=(--compare_to base)
inference_gpu=() # what a job of inference asks for
if [ "$device" = cuda ]; then inference_gpu=(--gpu 1); fi
recorded=(--expdir "$expdir" --data "$datadir" --dump "$dumpdir"
    --speakers "$speakerdir" --langs "${langs[@]}" --tasks "${tasks[@]}" --methods
    --systems "${systems[@]}")
start_run

stage_data
stage_format "${splits[@]}"

if begin speakers "data of each speaker in $speakerdir"; then
    run_cpu 1 "$expdir/log/speakers.log" \
        "$python" -m lors.bin.split_speakers --data "$dumpdir" --langs "${langs[@]}" \
        --tasks "${tasks[@]}" --out "$speakerdir" "${speaker_options[@]}"
    if [ "$dry_run" = false ]; then check_options pqm; fi # the lists of the speakers that are there now
fi

stage_base

if begin quantise "4 bits in $expdir/quantised"; then
    run_cpu 1 "$expdir/log/quantise.log" \
        "$python" -m lors.bin.quantise --model "$expdir/base" --out "$expdir/quantised" \
        "${quantise_options[@]}"
fi

if begin stats "shapes of the training data"; then
    run "${train_cmd[@]}" --num_threads "$cores" "$expdir/log/stats.log" \
        "$python" -m lors.bin.train --base "$expdir/quantised" \
        --pairs "${others[@]}" "${personal[@]}" --dump "$speakerdir" --config "$sat_config" \
        --dev_utterances "$dev_utterances" --collect_stats --out "$expdir/stats"
fi

if begin sat "an adapter for all speakers"; then
    run_train "$cores" "$expdir/log/train_sat.log" \
        "$python" -m lors.bin.train --base "$expdir/quantised" --pairs "${others[@]}" \
        --dump "$speakerdir" --config "$sat_config" --dev_utterances "$dev_utterances" \
        --stats "$expdir/stats" --seed "$seed" --ngpu "$ngpu" --num_nodes "$num_nodes" \
        --out "$expdir/quantised_sat"
fi

if begin adapt "adapters of the test speakers"; then
    for system in quantised_sat_speaker quantised_speaker; do
        from=()
        if [ "$system" = quantised_sat_speaker ]; then from=(--adapter "$expdir/quantised_sat"); fi
        run_train "$array_cores" --max_jobs_run "$nj" JOB=1:${#personal[@]} \
            "$expdir/log/train_$system.JOB.log" \
            "$python" -m lors.bin.train --base "$expdir/quantised" "${from[@]}" \
            --pairs "${personal[@]}" --dump "$speakerdir" --config "$train_config" \
            --dev_utterances "$dev_utterances" --stats "$expdir/stats" --seed "$seed" \
            --ngpu "$ngpu" --num_nodes "$num_nodes" --only JOB --out "$expdir/$system"
    done
fi

if begin inference "test sets by ${systems[*]}"; then
    run "$python" -m lors.bin.share_adapters --expdir "$expdir" --langs "${speakers[@]}" \
        --tasks "${tasks[@]}"
    infer "$speakerdir" "${speakers[@]}"
fi

if begin score "scores, $expdir/RESULTS.md"; then
    score "$speakerdir" "${speakers[@]}"
fi

end_run
