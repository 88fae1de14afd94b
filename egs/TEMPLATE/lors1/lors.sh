#!/usr/bin/env bash
# Usage: ./run.sh [options]
#
# Fine-tune one expert per language and task from one base model, merge them, and compare.
#
# Stages (a number or a name):
#    1 data       the corpus, as Kaldi data directories (local/data.sh)
#    2 format     16 kHz mono FLAC, one copy for recognition and translation
#    3 base       the base model
#    4 stats      the shapes of the training data that ESPnet needs
#    5 experts    fine-tuning: languages x tasks
#    6 baselines  one model for all, with the experts' budget together: joint, and
#                 pair by pair in either order: sequential, sequential_reversed
#    7 tune       parameters of every merge method, on dev, with one budget for all
#    8 merge      over languages for each task, and over languages and tasks
#    9 inference  hypotheses of the test sets
#   10 score      WER and BLEU, normalised performance, RESULTS.md, plots and report.html
#   11 pack       the models of lors+boost (without it: of lors) as ESPnet zip files
#   12 upload     the same models on the Hugging Face Hub, with --upload_repo
#
# A finished stage is not done again: after an interruption (Ctrl-C, kill -9) call the same command
# again. Results made with other settings are never overwritten; choose another --expdir.
# utils/status [EXPDIR] shows what is done, what runs and what has failed, with the logs.
#
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail

## Stages
stage=1      # first stage to run
stop_stage=12 # last stage to run
skip_train=false # leave out stages 3 to 6; their models are there
dry_run=false # print the commands of each stage instead of running them
submit=false # run this script itself as a batch job, so that no terminal has to stay open
## Data and models
langs="de es fr" # languages (Common Voice codes)
group=""     # one of --groups: its languages in place of --langs
groups=""    # groups of languages of the recipe, as 'name: de es; name: fr'
tasks="asr st" # asr (recognition), st (translation into English), or both
methods="average task_arithmetic lors lors+boost" # merge methods to compare
compare_to="" # method or system that all rows of the report are compared with (default: lors)
baselines=joint # one model for all: joint (all data at once), sequential (pair by pair), sequential_reversed (the last pair first), or several
train_hours="" # hours of training data: 5 (each language), "5 fr=0.5" (fr less), fr=0.5 (all of the others)
train_subset="" # lists of training clips, in place of --train_hours: a folder like DUMPDIR/subset
seed=1       # seed of the training
dev_utterances=1000 # dev utterances of each language and task, to choose the best epoch
## Directories
datadir=data # data directories of stage 1
dumpdir=dump # data directories of stage 2
expdir=exp   # models, hypotheses and results
## Jobs
nj=2         # jobs at the same time
ngpu=0       # GPUs of a training job on each of its nodes (0: train on the CPU)
num_nodes=1  # nodes of a training job, on a cluster
device=cpu   # device of inference: cpu or cuda
## Base model
model_family=espnet_s2t # espnet_s2t (OWSM and the like), whisper, or wav2vec2 (XLSR and the like, --tasks asr)
base_model="" # espnet_s2t: a model directory (base); whisper: name, OpenAI .pt, Hugging Face or CTranslate2 dir; wav2vec2: Hugging Face or model dir; all: org/model on the Hub
window=30    # whisper: seconds that speech is padded to, or auto
base_window="" # whisper: seconds for the rows of the untrained model (default: those of --window)
st_language=source # whisper: language in the prompt of a translation: source or target
## Configurations; the defaults of empty ones depend on --model_family
train_config="" # fine-tuning (conf/train_expert.yaml, conf/train_whisper_full.yaml)
inference_config="" # inference (conf/inference_greedy.yaml, conf/inference_whisper.yaml)
tune_config=conf/tune.yaml # settings of each merge method to try on dev
## For local/data.sh
data_opts="" # more options, in one word
## Upload
upload_repo="" # organisation/name on the Hugging Face Hub; the models are uploaded as name-asr, ...
upload_opts="" # more options of lors upload, in one word: --private --license mit

program=./run.sh
. utils/stages.sh
. utils/recipe_stages.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh
. ./cmd.sh

stages=(data format base stats experts baselines tune merge inference score pack upload)
training=(base stats experts baselines)
# Makes arrays of the options that are lists, completes base_model and the configurations, and sets:
declare -a pairs scopes searches systems packed import_options training_clips report_options
check_options lors
inference_gpu=() # what a job of inference asks for
if [ "$device" = cuda ]; then inference_gpu=(--gpu 1); fi
recorded=(--expdir "$expdir" --data "$datadir" --dump "$dumpdir" --langs "${langs[@]}"
    --tasks "${tasks[@]}" --methods "${methods[@]}" --systems "${systems[@]}")
start_run

stage_data
stage_format train dev test --tasks "${tasks[@]}"
stage_base
stage_stats

if begin experts "${#pairs[@]} experts: ${pairs[*]}"; then
    train_pairs expert "$train_config"
fi

# shellcheck disable=SC2119 # no further options
stage_baselines
stage_tune
stage_merge
stage_inference
stage_score

if begin pack "ESPnet zip files in $expdir/packed"; then
    for name in "${packed[@]}"; do # lors+boost.asr ...
        if [ "$expdir/packed/$name.zip" -nt "$expdir/merged/$name/model.pth" ]; then continue; fi
        run_cpu 1 "$expdir/log/pack.$name.log" "$python" -m lors.bin.pack \
            --model "$expdir/merged/$name" --base "$expdir/base" --out "$expdir/packed/$name.zip"
    done
fi

if begin upload "models on the Hub: ${upload_repo:-none, --upload_repo is empty}"; then
    for name in ${upload_repo:+"${packed[@]}"}; do
        model=$expdir/packed/$name.zip
        if [ "$model_family" = whisper ]; then
            model=$expdir/packed/$name.hf
            card=$model.README.md # during an export; it may have been edited by hand
            # The card is written again later than the weights: their age is that of config.json.
            if [ ! "$model/config.json" -nt "$expdir/merged/$name/model.pth" ]; then
                if [ -e "$model/README.md" ]; then run mv "$model/README.md" "$card"; fi
                run rm -rf "$model"
                run "$python" -m lors.bin.export_whisper \
                    --model "$expdir/merged/$name/model.pth" --out "$model"
            fi
            if [ -e "$card" ]; then run mv "$card" "$model/README.md"; fi
        fi
        run "$python" -m lors.bin.upload "$model" "$upload_repo-${name#*.}" --expdir "$expdir" \
            --merged "$name" --command "$command_line" "${upload_opts[@]}"
    done
fi

end_run
