#!/usr/bin/env bash
# Usage: ./evidence.sh [options]
#
# Compare merge methods on the voice prompts. After an interruption call the same command again; what
# is finished is not done again. The section voice_prompts of RESULTS.md has the commands of its
# figures, which are some of these.
#
# Parts:
#   seeds   for each seed: experts, joint and sequential model, search on dev, test, significance
#   reach   test scores of what was not merged: the other task, read Russian, a language left out
#   extend  Russian added to a merge of the other languages, and Italian taken away
#   curves  by the number of languages, the settings of a merge, training hours, and learning rate
#
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

experiment=full # full, or quick: one seed, three methods, five settings of each, part seeds
parts=""     # parts to run (full: all)
seeds=""     # seeds of the training (full: 1 2 3)
methods=""   # methods of the first seed, over languages (full: all of conf/tune_full.yaml)
leading=""   # methods of all seeds, over languages, and over languages and tasks
expdir=exp   # experiment directories: EXPDIR/seed1, EXPDIR/reach, ...
nj=2         # jobs at the same time

. utils/log.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh

langs=(en es fr it ru)
case $experiment in
quick)
    train=conf/train_quick.yaml tune=conf/tune_quick.yaml
    : "${parts:=seeds}" "${seeds:=1}" "${leading:=average task_arithmetic lors}"
    : "${methods:=$leading}"
    ;;
full)
    train=conf/train_quick.yaml tune=conf/tune_full.yaml
    : "${parts:=seeds reach extend curves}" "${seeds:=1 2 3}"
    : "${leading:=average task_arithmetic tsv_m actmat lors_paper lors}"
    : "${methods:=$(sed -n 's/^\([a-z][a-z0-9_+]*\):.*/\1/p' "$tune" | grep -v '^halving$' | xargs)}"
    ;;
*) die -2 "no such experiment" "where: --experiment $experiment" "expected: quick or full" ;;
esac
for part in $parts; do
    if [[ " seeds reach extend curves " != *" $part "* ]]; then
        die -2 "no such part" "where: --parts $part" "expected: seeds reach extend curves"
    fi
done
read -ra seeds_a <<<"$seeds"
read -ra leading_a <<<"$leading"
read -ra methods_a <<<"$methods"
extended=() # leading methods that are sums: part extend changes their merges
for method in task_arithmetic lors lors_paper; do
    if [[ " $leading " == *" $method "* ]]; then extended+=("$method"); fi
done
if [[ " $parts " == *" extend "* ]] && [ "${#extended[@]}" -eq 0 ]; then
    die -2 "no leading method whose merges part extend can change" "where: --leading $leading" \
        "expected: task_arithmetic, lors or lors_paper among them" "what to do: leave extend out of --parts"
fi
first=$expdir/seed${seeds_a[0]}
inference=conf/inference_whisper.yaml

# Run ./run.sh with the configurations of the experiment.
recipe() {
    ./run.sh --nj "$nj" --train_config "$train" --tune_config "$tune" "$@"
}

# Run inference with models NAME=DIR ... of a part, score it, and write a report: evaluate OUT ...
evaluate() {
    local out=$1
    shift
    "$python" -m lors.bin.evaluate --inference_config "$inference" --out "$out" "$@"
    "$python" -m lors.bin.results --expdirs "$out" --out "$out/RESULTS.md" --title "${out##*/}"
}

# Print NAME=DIR of the merges of a scope, one for each leading method.
merges() {
    local method
    for method in "${leading_a[@]}"; do echo "$method=$first/merged/$method.$1"; done
}

part_seeds() {
    local seed task
    for seed in "${seeds_a[@]}"; do
        recipe --seed "$seed" --expdir "$expdir/seed$seed" --methods "$leading"
        if [ "$seed" = "${seeds_a[0]}" ] && [ "$methods" != "$leading" ]; then
            for task in asr st; do
                recipe --seed "$seed" --expdir "$first" --tasks "$task" --methods "$methods" \
                    --stage tune --stop_stage inference
            done
            "$python" -m lors.bin.score_expdir --expdir "$first" --dump dump --split test \
                --langs "${langs[@]}" --tasks asr st --systems "${methods_a[@]/%/.langs}"
            recipe --seed "$seed" --expdir "$first" --methods "$leading" --stage score
        fi
    done
    local systems=(base expert joint sequential) method
    for method in "${leading_a[@]}"; do systems+=("$method.langs" "$method.langs_tasks"); done
    local dirs=("${seeds_a[@]/#/$expdir/seed}")
    "$python" -m lors.bin.results --expdirs "${dirs[@]}" --systems "${systems[@]}" \
        --out "$expdir/RESULTS.md" --plots "$expdir/plots"
    "$python" -m lors.bin.report --expdirs "${dirs[@]}" --systems "${systems[@]}" \
        --significance "$expdir/RESULTS.significance.json" --out "$expdir/report.html"
}

part_reach() {
    local asr st
    mapfile -t asr < <(merges asr)
    mapfile -t st < <(merges st)
    evaluate "$expdir/reach/recognition_models_translate" --dump dump --tasks st \
        --langs "${langs[@]:1}" --models base="$first/base" "expert=$first/expert/{lang}_asr" "${asr[@]}"
    evaluate "$expdir/reach/translation_models_recognise" --dump dump --tasks asr \
        --langs "${langs[@]}" --models base="$first/base" "${st[@]}"
    ./run.sh --langs ru --tasks asr --datadir data_read --dumpdir dump_read --stop_stage format \
        --data_opts "--read_russian true"
    evaluate "$expdir/reach/read_russian" --dump dump_read --tasks asr --langs ru \
        --models base="$first/base" expert="$first/expert/ru_asr" joint="$first/joint" "${asr[@]}"
    part_left_out
}

# Every language recognised by the merge of the others, with the factor of the whole merge.
part_left_out() {
    local lang method out rest models # rest: experts
    models=(base="$first/base" "expert=$first/expert/{lang}_asr")
    for method in "${leading_a[@]}"; do
        for lang in "${langs[@]}"; do
            mapfile -t rest < <(experts_without "$lang")
            out=$expdir/reach/models/$method.without_$lang
            merge "$method" "$out" --experts "${rest[@]}" --weights "${rest[@]/*/1}"
        done
        models+=("$method=$expdir/reach/models/$method.without_{lang}")
    done
    evaluate "$expdir/reach/language_left_out" --dump dump --tasks asr --langs "${langs[@]}" \
        --models "${models[@]}"
}

# Print the recognition experts of all languages but one.
experts_without() {
    local lang
    for lang in "${langs[@]}"; do
        if [ "$lang" != "$1" ]; then echo "$first/expert/${lang}_asr/model.pth"; fi
    done
}

# Merge like METHOD.asr of the first seed, with other options: merge METHOD OUT [option ...]
merge() {
    local method=$1 out=$2
    shift 2
    if [ -e "$out/model.pth" ]; then return; fi
    "$python" -m lors.bin.merge --config "$first/merged/$method.asr/merge.yaml" \
        --out "$out/model.pth" "$@"
}

# Sums only: the merge is changed, and the other experts are not needed.
part_extend() {
    local method models=(base="$first/base" "expert=$first/expert/{lang}_asr" joint="$first/joint")
    local out=$expdir/extend/models
    for method in "${extended[@]}"; do
        merge "$method" "$out/$method.added_ru" --experts "$first/expert/ru_asr/model.pth" \
            --weights 1 --onto "$expdir/reach/models/$method.without_ru/model.pth"
        merge "$method" "$out/$method.removed_it" --experts "$first/expert/it_asr/model.pth" \
            --weights -1 --onto "$first/merged/$method.asr/model.pth"
        models+=("$method=$first/merged/$method.asr"
            "${method}_before_ru=$expdir/reach/models/$method.without_ru"
            "${method}_added_ru=$out/$method.added_ru"
            "${method}_removed_it=$out/$method.removed_it")
    done
    evaluate "$expdir/extend" --dump dump --tasks asr --langs "${langs[@]}" --models "${models[@]}"
}

part_curves() {
    local number hours rate config
    for number in 2 3 4; do
        curve_of_merges "${number}_languages" --langs "${langs[*]: -number}"
    done
    curve_of_merges settings --tune_config conf/tune_curves.yaml --stop_stage tune \
        --methods "task_arithmetic lors_paper lors_rank lors_density tsv_m actmat"
    for hours in 0.05 0.1; do
        curve "${hours}_hours" --train_hours "$hours" --dumpdir "dump_${hours}_hours"
    done
    for rate in 0.000005 0.00002; do
        config=$expdir/curves/train_$rate.yaml
        mkdir -p "$expdir/curves"
        sed "s/lr: 0\.00001$/lr: $rate/" "$train" >"$config"
        if cmp -s "$config" "$train"; then
            die "no learning rate to replace" "where: $train" "expected: lr: 0.00001"
        fi
        curve "rate_$rate" --train_config "$config"
    done
}

# Run the recipe for recognition in EXPDIR/curves/NAME, with the first seed, whose experts it is
# compared with: curve NAME [option ...]
curve() {
    local out=$expdir/curves/$1
    shift
    recipe --seed "${seeds_a[0]}" --expdir "$out" --tasks asr --baselines "" --methods "$leading" "$@"
}

# The same with the experts of the first seed.
curve_of_merges() {
    local out=$expdir/curves/$1 name
    mkdir -p "$out"
    for name in base expert stats; do ln -sfn "$(realpath "$first/$name")" "$out/$name"; done
    curve "$@" --skip_train true --stage tune
}

for part in $parts; do
    log "part $part"
    "part_$part"
done
