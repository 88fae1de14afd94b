#!/usr/bin/env bash
# Usage: ./run.sh [options]
#
# Fine-tune one expert per language and task from one base model, merge them, and compare.
#
# Stages (a number or a name):
#    1 data       the corpus, as Kaldi data directories (local/data.sh)
#    2 format     16 kHz mono FLAC, one copy for recognition and translation
#    3 base       the base model: taken as it is, or trained (--train_base true)
#    4 stats      the shapes of the training data that ESPnet needs
#    5 experts    fine-tuning: languages x tasks
#    6 baselines  one model for all, with the experts' budget together: joint, sequential
#    7 tune       parameters of every merge method, on dev, with one budget for all
#    8 merge      over languages for each task, and over languages and tasks
#    9 inference  of the test sets
#   10 score      WER and BLEU, normalised performance, RESULTS.md and plots
#   11 pack       the LoRS models as ESPnet zip files
#
# A finished stage is not done again: call the same command after an interruption, be it Ctrl-C or
# kill -9. Results made with other settings are never overwritten; choose another --expdir.
# utils/status [EXPDIR] shows how far each stage is, what runs and what has failed, with the logs;
# from any terminal.
#
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

## Which stages
stage=1      # first stage to run
stop_stage=11 # last stage to run
skip_train=false # leave out stages 3 to 6: the models are there
dry_run=false # print the commands of each stage instead of running them
submit=false # run all this as a batch job itself, so that no terminal has to stay open
## What to build
langs="de es fr" # languages (Common Voice codes)
group=""     # one of --groups: its languages in place of --langs
groups=""    # the recipe's groups of languages, as 'name: de es; name: fr'
tasks="asr st" # asr (recognition), st (translation into English), or both
methods="average task_arithmetic lors" # merge methods to compare
baselines=joint # one model for all: joint (all data at once), sequential (pair by pair), or both
train_hours="" # hours of each language's training data, a subset drawn by hash (default: all)
train_subset="" # in place of --train_hours, lists of clips: a folder like DUMPDIR/subset
seed=1       # seed of the training
dev_utterances=1000 # dev utterances of each language and task that choose a training's epoch
## Where
datadir=data # data directories of stage 1
dumpdir=dump # data directories of stage 2
expdir=exp   # models, hypotheses and results
## On what
nj=2         # jobs at the same time
ngpu=0       # GPUs of a training job on each of its nodes (0: train on the CPU)
num_nodes=1  # nodes of a training job, on a cluster
device=cpu   # device of inference: cpu or cuda
## Base model
model_family=espnet_s2t # espnet_s2t (OWSM and its kin) or whisper
base_model="" # espnet_s2t: a model directory (base); whisper: OpenAI .pt, Hugging Face directory, name
window=30    # whisper: seconds that speech is padded to
st_language=source # whisper: language in the prompt of a translation: source or target
train_base=false # train the base model instead, on the pool of --base_langs
base_langs="" # languages of the base model that is trained (default: --langs)
vocab_size=500 # espnet_s2t: BPE pieces of the base model that is trained
## Configurations; those that are empty are chosen by --model_family
base_config="" # training of the base model (conf/train_base.yaml, conf/train_whisper_base.yaml)
train_config="" # fine-tuning (conf/train_expert.yaml, conf/train_whisper_full.yaml)
inference_config="" # inference (conf/inference_greedy.yaml, conf/inference_whisper.yaml)
tune_config=conf/tune.yaml # settings of each merge method to try on dev
## For local/data.sh
data_opts="" # further options, as one word

words=("$@")
# As it can be typed again.
command_line=./run.sh
for word in "$@"; do
    if [[ -z $word || $word == *[!A-Za-z0-9_./:=,+-]* ]]; then word=${word@Q}; fi
    command_line+=" $word"
done
. utils/log.sh
. utils/parse_options.sh
if [ $# -gt 0 ]; then die -2 "unexpected argument: $1" "what to do: --help lists every option"; fi
. ./path.sh
. ./cmd.sh
export LORS_DRIVER=$$ # lors/processes.py, utils/jobs.py

stage_names=(data format base stats experts baselines tune merge inference score pack)
stage_number() {
    local number
    for number in "${!stage_names[@]}"; do
        if [[ $1 == "${stage_names[number]}" || $1 == $((number + 1)) ]]; then
            echo $((number + 1))
            return
        fi
    done
    die -2 "unknown stage: $1" "expected: 1 to ${#stage_names[@]}, or one of: ${stage_names[*]}"
}
stage=$(stage_number "$stage")
stop_stage=$(stage_number "$stop_stage")

if [ -n "$group" ]; then
    if ! [[ ";$groups;" =~ \;[[:space:]]*"$group":[[:space:]]*([^;]*)\; ]]; then
        die -2 "unknown group: $group" "where: --group" "expected: one of '${groups:-none}'"
    fi
    langs=${BASH_REMATCH[1]}
fi
read -ra langs_a <<<"$langs"
read -ra tasks_a <<<"$tasks"
for task in "${tasks_a[@]}"; do
    if [[ $task != asr && $task != st ]]; then
        die -2 "unknown task: $task" "where: --tasks" "expected: asr, st, or both: 'asr st'"
    fi
done
read -ra baselines_a <<<"$baselines"
for baseline in "${baselines_a[@]}"; do
    if [[ $baseline != joint && $baseline != sequential ]]; then
        die -2 "unknown baseline: $baseline" "where: --baselines" \
            "expected: joint, sequential, both: 'joint sequential', or none: ''"
    fi
done
case $model_family in
    espnet_s2t)
        : "${base_config:=conf/train_base.yaml}" "${train_config:=conf/train_expert.yaml}"
        : "${inference_config:=conf/inference_greedy.yaml}" "${base_model:=base}"
        base_options=()
        ;;
    whisper)
        : "${base_config:=conf/train_whisper_base.yaml}"
        : "${train_config:=conf/train_whisper_full.yaml}"
        : "${inference_config:=conf/inference_whisper.yaml}"
        base_options=(--window "$window" --st_language "$st_language")
        ;;
    *) die -2 "unknown model family: $model_family" "where: --model_family" \
        "expected: espnet_s2t or whisper" ;;
esac
read -ra methods_a <<<"$methods"
read -ra base_langs_a <<<"${base_langs:-$langs}"
read -ra train_cmd_a <<<"$train_cmd"
read -ra infer_cmd_a <<<"$infer_cmd"
read -ra cpu_cmd_a <<<"$cpu_cmd"
read -ra driver_cmd_a <<<"$driver_cmd"
cores=${job_cores:-$nj} cores_of_array=${job_cores:-1}
on_device=() # what a job of inference needs
case $device in
    cpu) ;;
    cuda) on_device=(--gpu 1) ;;
    *) die -2 "unknown device: $device" "where: --device" "expected: cpu or cuda" ;;
esac
read -ra data_opts_a <<<"$data_opts"
training_clips=()
if [ -n "$train_subset" ]; then
    training_clips=(--train_subset "$train_subset")
elif [ -n "$train_hours" ]; then
    training_clips=(--train_hours "$train_hours")
fi
pairs=()
for lang in "${langs_a[@]}"; do
    for task in "${tasks_a[@]}"; do pairs+=("${lang}_$task"); done
done
base_pairs=()
for lang in "${base_langs_a[@]}"; do base_pairs+=("${lang}_asr" "${lang}_st"); done
# Merges over languages, one a task; with two tasks also one over languages and tasks.
scopes=("${tasks_a[@]}")
systems=(base expert "${baselines_a[@]}")
for method in "${methods_a[@]}"; do systems+=("$method.langs"); done
if [ ${#tasks_a[@]} -gt 1 ]; then
    scopes+=(asr_st)
    for method in "${methods_a[@]}"; do systems+=("$method.langs_tasks"); done
fi
on_gpus=(--gpu "$ngpu" --num_nodes "$num_nodes") # what a training job needs
distributed=(--ngpu "$ngpu" --num_nodes "$num_nodes")
experiment=(--expdir "$expdir" --dump "$dumpdir" --langs "${langs_a[@]}" --tasks "${tasks_a[@]}")

# Before anything long begins, what can be known of the options of the stages that are to be run.
will_run() { [ "$stage" -le "$2" ] && [ "$stop_stage" -ge "$1" ]; } # one of FIRST to LAST
wanted=()
if [ "$skip_train" = false ] && will_run 3 3; then
    if [ "$train_base" = true ]; then
        wanted+=(--base_config "$base_config" --base_langs "${base_langs_a[@]}")
    elif [ -z "$base_model" ]; then
        die -2 "no base model was given" "where: --base_model" \
            "expected: an official name such as small, OpenAI's .pt, or a directory of Hugging Face" \
            "what to do: give one, or train a small one: --train_base true"
    else
        wanted+=(--base_model "$base_model")
    fi
fi
if [ "$skip_train" = false ] && will_run 4 6; then wanted+=(--train_config "$train_config"); fi
if will_run 7 7; then wanted+=(--tune_config "$tune_config"); fi
if will_run 7 9; then wanted+=(--inference_config "$inference_config"); fi
if [ "$cmd_backend" = local ] && [ "$num_nodes" != 1 ]; then
    die -2 "one machine has one node" "where: --num_nodes $num_nodes" \
        "what to do: leave it out, or set cmd_backend in cmd.sh to a cluster"
fi
"$python" -m lors.bin.check_recipe "${wanted[@]}" --model_family "$model_family" \
    --langs "${langs_a[@]}" --tasks "${tasks_a[@]}" --methods "${methods_a[@]}" \
    --train_hours "$train_hours" --seed "$seed" --dev_utterances "$dev_utterances" \
    --window "$window" --st_language "$st_language" --vocab_size "$vocab_size" \
    --nj "$nj" --ngpu "$ngpu" --num_nodes "$num_nodes" \
    --train_base "$train_base" --skip_train "$skip_train" --submit "$submit" \
    --directories "$datadir" "$dumpdir" "$expdir"

run() {
    if [ "$dry_run" = false ]; then
        "$@"
        return
    fi
    local submission=''
    if [[ $1 == utils/slurm.py ]]; then submission=$("$1" --dry_run true "${@:2}"); fi
    printf '%q ' "$@"
    echo
    if [ -n "$submission" ]; then printf '    %s\n' "$submission"; fi
}

if [ "$submit" = true ] && [ -z "${LORS_SUBMITTED:-}" ]; then
    if [ ${#driver_cmd_a[@]} -eq 0 ]; then
        die -2 "--submit needs a cluster" "where: cmd_backend=$cmd_backend in cmd.sh" \
            "what to do: set it to slurm, or: LORS_CMD_BACKEND=slurm $command_line"
    fi
    driver=("${driver_cmd_a[@]}" --detach true "$expdir/log/driver.log"
        env LORS_SUBMITTED=true ./run.sh "${words[@]}")
    if [ "$dry_run" = true ]; then
        run "${driver[@]}"
    else
        job=$("${driver[@]}")
        log "submitted as job $job, its log is $expdir/log/driver.log"
        log "utils/status shows how far it is, scancel $job ends it with all of its jobs"
        exit 0
    fi
fi

# Work without a GPU: run_cpu THREADS LOGFILE COMMAND ...; on this machine one sees its output.
run_cpu() {
    local log=$2
    if [ "$cmd_backend" = local ]; then log=-; fi
    run "${cpu_cmd_a[@]}" --num_threads "$1" "$log" "${@:3}"
}

# Write EXPDIR/recipe.json, for utils/status: --stage NAME that begins, or the --status at the end.
record() {
    if [ "$dry_run" = true ]; then return; fi
    "$python" -m lors.bin.record_run "$@" --pid $$ --command "$command_line" "${experiment[@]}" \
        --data "$datadir" --methods "${methods_a[@]}" --systems "${systems[@]}" \
        --train_base "$train_base" --base_langs "${base_langs_a[@]}" \
        --skip_train "$skip_train" --stop_stage "$stop_stage"
}

# Whether a stage is to be run; says so, and how long the one before took.
started=
begin() {
    local now=$SECONDS
    if [ -n "$started" ]; then log "stage $started took $((now - started_at)) s"; fi
    started=
    if [ "$stage" -gt "$1" ] || [ "$stop_stage" -lt "$1" ]; then return 1; fi
    if [ "$skip_train" = true ] && [ "$1" -ge 3 ] && [ "$1" -le 6 ]; then return 1; fi
    started="$1 (${stage_names[$1 - 1]})" started_at=$now
    log "stage $started: $2"
    record --stage "${stage_names[$1 - 1]}" || true # it has said why; the stage can do without
}
finished=false
on_exit() {
    # Of a signal that ends it bash says nothing here: $? is still that of the last command.
    if [ "$1" -eq 0 ] && [ "$finished" = false ]; then set -- 143; fi
    if [ "$1" -ne 0 ] && [ -n "$started" ]; then
        log "stage $started failed; after mending the cause, go on with:"
        log "cd ${PWD@Q} && $command_line"
    fi
    record --status "$1" || true # the exit code stays the run's
}
trap 'on_exit $?' EXIT

if begin 1 "corpus of ${langs_a[*]}"; then
    run_cpu "$cores" "$datadir/log/data.log" local/data.sh \
        --out "$datadir" --langs "$langs" --nj "$cores" "${data_opts_a[@]}"
    if [ "$train_base" = true ]; then
        run_cpu "$cores" "$datadir/log/data_pool.log" local/data.sh --pool true \
            --out "$datadir/pool" --langs "${base_langs_a[*]}" --nj "$cores" "${data_opts_a[@]}"
    fi
fi

if begin 2 "16 kHz mono FLAC in $dumpdir"; then
    run_cpu "$cores" "$dumpdir/log/format.log" \
        "$python" -m lors.bin.format_audio --data "$datadir" --dump "$dumpdir" \
        --langs "${langs_a[@]}" --splits train dev test --nj "$cores" "${training_clips[@]}"
    if [ "$train_base" = true ]; then
        run_cpu "$cores" "$dumpdir/log/format_pool.log" \
            "$python" -m lors.bin.format_audio --data "$datadir/pool" --dump "$dumpdir/pool" \
            --langs "${base_langs_a[@]}" --splits train dev --nj "$cores"
    fi
fi

if begin 3 "base model in $expdir/base"; then
    if [ "$train_base" = true ]; then
        from_scratch=(--dev_utterances "$dev_utterances" --pairs "${base_pairs[@]}"
            --dump "$dumpdir/pool" --config "$base_config")
        if [ "$model_family" = espnet_s2t ]; then
            from_scratch+=(--tokens "$expdir/base")
            if [ ! -e "$expdir/base/tokens.txt" ]; then
                run_cpu 1 "$expdir/log/train_tokenizer.log" \
                    "$python" -m lors.bin.train_tokenizer --dump "$dumpdir/pool" \
                    --langs "${base_langs_a[@]}" --config "$base_config" \
                    --vocab_size "$vocab_size" --out "$expdir/base"
            fi
        fi
        run "${train_cmd_a[@]}" --num_threads "$cores" "$expdir/log/base_stats.log" \
            "$python" -m lors.bin.train "${from_scratch[@]}" --collect_stats \
            --out "$expdir/base_stats"
        run "${train_cmd_a[@]}" "${on_gpus[@]}" --num_threads "$cores" \
            "$expdir/log/train_base.log" \
            "$python" -m lors.bin.train "${from_scratch[@]}" --stats "$expdir/base_stats" \
            --out "$expdir/base" --seed "$seed" "${distributed[@]}"
    else
        run_cpu 1 "$expdir/log/import_base.log" \
            "$python" -m lors.bin.import_base --model_family "$model_family" \
            --base_model "$base_model" "${base_options[@]}" --out "$expdir/base"
    fi
fi

fine_tuning=(--base "$expdir/base" --pairs "${pairs[@]}" --dump "$dumpdir" --config "$train_config"
    --dev_utterances "$dev_utterances")

if begin 4 "shapes of the training data"; then
    chain=() # whether the configuration allows one is to be known before the experts are trained
    if [[ " ${baselines_a[*]} " == *" sequential "* ]]; then chain=(--sequential); fi
    run "${train_cmd_a[@]}" --num_threads "$cores" "$expdir/log/stats.log" \
        "$python" -m lors.bin.train "${fine_tuning[@]}" --collect_stats --out "$expdir/stats" \
        "${chain[@]}"
fi

fine_tuning+=(--stats "$expdir/stats" --seed "$seed" "${distributed[@]}")

if begin 5 "${#pairs[@]} experts: ${pairs[*]}"; then
    run "${train_cmd_a[@]}" "${on_gpus[@]}" --num_threads "$cores_of_array" \
        --max_jobs_run "$nj" JOB=1:${#pairs[@]} "$expdir/log/train_expert.JOB.log" \
        "$python" -m lors.bin.train "${fine_tuning[@]}" --only JOB --out "$expdir/expert"
fi

if begin 6 "one model for all pairs: ${baselines:-none}"; then
    for baseline in "${baselines_a[@]}"; do
        chain=()
        if [ "$baseline" = sequential ]; then chain=(--sequential); fi
        run "${train_cmd_a[@]}" "${on_gpus[@]}" --num_threads "$cores" \
            "$expdir/log/train_$baseline.log" \
            "$python" -m lors.bin.train "${fine_tuning[@]}" "${chain[@]}" \
            --out "$expdir/$baseline"
    done
fi

if begin 7 "merges of scope ${scopes[*]} on dev"; then
    run "${infer_cmd_a[@]}" "${on_device[@]}" --num_threads "$cores_of_array" \
        --max_jobs_run "$nj" JOB=1:${#scopes[@]} "$expdir/log/tune.JOB.log" \
        "$python" -m lors.bin.tune "${experiment[@]}" --methods "${methods_a[@]}" \
        --grid "$tune_config" --inference_config "$inference_config" --device "$device" --only JOB
fi

if begin 8 "merged models in $expdir/merged"; then
    run_cpu "$cores" "$expdir/log/merge.log" \
        "$python" -m lors.bin.merge_tuned --expdir "$expdir" --methods "${methods_a[@]}" \
        --langs "${langs_a[@]}" --scopes "${scopes[@]}"
fi

if begin 9 "test sets by ${systems[*]}"; then
    run "${infer_cmd_a[@]}" "${on_device[@]}" --num_threads "$cores_of_array" \
        --max_jobs_run "$nj" JOB=1:"$nj" "$expdir/log/inference.JOB.log" \
        "$python" -m lors.bin.inference "${experiment[@]}" --systems "${systems[@]}" --split test \
        --inference_config "$inference_config" --device "$device" --job JOB --num_jobs "$nj"
fi

if begin 10 "scores, $expdir/RESULTS.md"; then
    run "$python" -m lors.bin.score_expdir "${experiment[@]}" --systems "${systems[@]}" --split test
    run "$python" -m lors.bin.results --expdirs "$expdir" --out "$expdir/RESULTS.md" \
        --plots "$expdir/plots" --command "$command_line"
fi

if begin 11 "ESPnet zip files in $expdir/packed"; then
    with_model=() # the files that the model's configuration names
    for file in "$expdir"/base/{bpe.model,feats_stats.npz}; do
        if [ -e "$file" ]; then with_model+=(--option "$file"); fi
    done
    for method in "${methods_a[@]}"; do
        if [ "$method" != lors ]; then continue; fi
        for scope in "${scopes[@]}"; do
            model=$expdir/merged/$method.$scope zip=$expdir/packed/$method.$scope
            if [ "$zip.zip" -nt "$model/model.pth" ]; then continue; fi
            run_cpu 1 "$expdir/log/pack.$method.$scope.log" \
                "$python" -m espnet2.bin.pack s2t --s2t_train_config "$model/config.yaml" \
                --s2t_model_file "$model/model.pth" "${with_model[@]}" --outpath "$zip.part.zip"
            run mv "$zip.part.zip" "$zip.zip"
        done
    done
fi

if begin 99 ""; then :; fi
log "done in $SECONDS s"
finished=true
