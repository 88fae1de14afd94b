#!/usr/bin/env bash
# Usage: ./run.sh [options]
#
# Give each language a sub-network of one model (S3Net, sparse sharing), train the model under the
# masks of its languages, and compare with experts, the joint model and merges.
#
# Stages (a number or a name):
#    1 data       the corpus, as Kaldi data directories (local/data.sh)
#    2 format     16 kHz mono FLAC, one copy for recognition and translation
#    3 base       the base model
#    4 stats      the shapes of the training data that ESPnet needs
#    5 experts    fine-tuning: languages x tasks; the criteria magnitude and common take their weights;
#                 none with taylor alone and --stop_stage subnets: no stage reads them
#    6 baselines  one model for all, with the experts' budget together: joint, and
#                 pair by pair in either order: sequential, sequential_reversed
#    7 importance |w dL/dw| of the base model on each language, for the criteria by Taylor scores
#    8 masks      a mask for each language, by each criterion and pruning rate
#    9 subnets    one model for each set of masks, every batch under the mask of its language
#   10 tune       parameters of every merge method, on dev, with one budget for all
#   11 merge      over languages for each task, and over languages and tasks
#   12 inference  hypotheses of the test sets
#   13 overlap    overlap of the masks of two languages, and the loss of merging their experts
#   14 score      WER and BLEU, normalised performance, RESULTS.md, plots and report.html
#   15 pack       each sub-network as a model of its own, and all in one file with their masks
#
# A finished stage is not done again: after an interruption (Ctrl-C, kill -9) call the same command
# again. Results made with other settings are never overwritten; choose another --expdir.
# utils/status [EXPDIR] shows what is done, what runs and what has failed, with the logs.
#
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail

## Stages
stage=1      # first stage to run
stop_stage=15 # last stage to run
skip_train=false # leave out stages 3 to 9; their models are there
dry_run=false # print the commands of each stage instead of running them
submit=false # run this script itself as a batch job, so that no terminal has to stay open
## Data and models
langs="de es fr" # languages (Common Voice codes)
group=""     # one of --groups: its languages in place of --langs
groups=""    # groups of languages of the recipe, as 'name: de es; name: fr'
tasks="asr st" # asr (recognition), st (translation into English), or both
criteria="magnitude taylor" # how masks are found: magnitude (lottery ticket), taylor (|w dL/dw|); controls with one mask for all: common, common_taylor
rates="30"   # pruning rates in percent, 10 to 90; a model is trained for each criterion and rate
mask_scope=matrix # whether the rate holds for each matrix (matrix) or for all together (global)
mask_rounds=1 # how often masks are found: 1, on the base model; 2, again on the model after half of the training
methods="average lors" # merge methods to compare
compare_to="" # method or system that all rows of the report are compared with (default: the first system under masks)
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
pretrained="" # experiment whose joint model and sub-networks are pre-trained: the same begin with them (default: none)
window=30    # whisper: seconds that speech is padded to, or auto
base_window="" # whisper: seconds for the rows of the untrained model (default: those of --window)
st_language=source # whisper: language in the prompt of a translation: source or target
## Configurations; the defaults of empty ones depend on --model_family
train_config="" # fine-tuning (conf/train_expert.yaml, conf/train_whisper_full.yaml)
lora_config="" # adapters beside the experts, for the comparison (default: none)
s3net_config="" # training under masks, and the batches of stage importance (default: that of train_config)
inference_config="" # inference (conf/inference_greedy.yaml, conf/inference_whisper.yaml)
tune_config=conf/tune.yaml # settings of each merge method to try on dev
## For local/data.sh
data_opts="" # more options, in one word

program=./run.sh
. utils/stages.sh
. utils/recipe_stages.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh
. ./cmd.sh

stages=(data format base stats experts baselines importance masks subnets
    tune merge inference overlap score pack)
training=(base stats experts baselines importance masks subnets)
# Makes arrays of the options that are lists, completes base_model and the configurations, and sets:
declare -a pairs experts scopes searches systems subnets masked scored from_pretrained
declare -a import_options training_clips report_options
check_options s3net
inference_gpu=() # what a job of inference asks for
if [ "$device" = cuda ]; then inference_gpu=(--gpu 1); fi
recorded=(--expdir "$expdir" --data "$datadir" --dump "$dumpdir" --langs "${langs[@]}"
    --tasks "${tasks[@]}" --methods "${methods[@]}" --systems "${systems[@]}")
start_run

stage_data
stage_format train dev test --tasks "${tasks[@]}"
stage_base
stage_stats

if begin experts "${#experts[@]} experts: ${experts[*]:-no stage of this run reads any}"; then
    if [ ${#experts[@]} -gt 0 ]; then
        train_pairs expert "$train_config"
        if [ -n "$lora_config" ]; then train_pairs lora "$lora_config"; fi
    fi
fi

stage_baselines "${from_pretrained[@]}"

if begin importance "Taylor scores of the base model: ${scored[*]:-none}"; then
    if [ ${#scored[@]} -gt 0 ]; then
        # The program uses one GPU.
        run "${train_cmd[@]}" --gpu $((ngpu > 0)) --num_threads "$array_cores" --max_jobs_run "$nj" \
            JOB=1:${#scored[@]} "$expdir/log/importance.JOB.log" \
            "$python" -m lors.bin.importance --base "$expdir/base" --langs "${scored[@]}" \
            --tasks "${tasks[@]}" --dump "$dumpdir" --config "$s3net_config" \
            --dev_utterances "$dev_utterances" --stats "$expdir/stats" --seed "$seed" \
            --ngpu "$ngpu" --only JOB --out "$expdir/importance"
    fi
fi

if begin masks "masks of ${masked[*]}: ${subnets[*]}"; then
    run_cpu 1 "$expdir/log/masks.log" \
        "$python" -m lors.bin.find_masks --expdir "$expdir" --langs "${masked[@]}" \
        --tasks "${tasks[@]}" --criteria "${criteria[@]}" --rates "${rates[@]}" \
        --scope "$mask_scope" "${from_pretrained[@]}"
fi

if begin subnets "training under masks: ${subnets[*]}"; then
    run_train "$(threads_of ${#subnets[@]})" \
        --max_jobs_run "$nj" JOB=1:${#subnets[@]} "$expdir/log/train_subnet.JOB.log" \
        "$python" -m lors.bin.train_subnet --base "$expdir/base" --langs "${langs[@]}" \
        --tasks "${tasks[@]}" --systems "${subnets[@]}" --mask_rounds "$mask_rounds" \
        "${from_pretrained[@]}" --dump "$dumpdir" \
        --config "$s3net_config" --dev_utterances "$dev_utterances" --stats "$expdir/stats" \
        --seed "$seed" --ngpu "$ngpu" --num_nodes "$num_nodes" --only JOB --out "$expdir"
fi

stage_tune
stage_merge
stage_inference

if begin overlap "overlap of masks in $expdir/overlap.json"; then
    run "${infer_cmd[@]}" "${inference_gpu[@]}" --num_threads "$cores" "$expdir/log/overlap.log" \
        "$python" -m lors.bin.mask_overlap --expdir "$expdir" --dump "$dumpdir" \
        --langs "${langs[@]}" --tasks "${tasks[@]}" --systems "${subnets[@]}" \
        --grid "$tune_config" --inference_config "$inference_config" --device "$device"
fi

stage_score

if begin pack "sub-networks in $expdir/packed"; then
    for subnet in "${subnets[@]}"; do
        if [ "$expdir/packed/$subnet/sizes.json" -nt "$expdir/$subnet/model.pth" ]; then continue; fi
        run_cpu 1 "$expdir/log/pack.$subnet.log" "$python" -m lors.bin.pack_subnets \
            --model "$expdir/$subnet" --langs "${masked[@]}" --out "$expdir/packed/$subnet"
    done
fi

end_run
