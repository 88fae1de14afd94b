#!/usr/bin/env bash
# Usage: ./evidence.sh [options]
#
# Compare merge methods on the voice prompts. After an interruption call the same command again; what
# is finished is not done again. RESULTS.md has the commands of its figures, which are some of these.
#
# Parts (all but seeds need the models of the first seed, finish them, and refuse those of other
# configurations):
#   seeds   for each seed: experts, a joint model, sequential models in two orders, search on dev,
#           test, significance
#   reach   test scores of what was not merged: the other task, read Russian, a language left out
#   extend  Russian added to merges that were tuned without it, Italian taken from merges of all,
#           and the cost beside that of joint training
#   curves  by the number of languages, the settings of a merge, training hours, and learning rate;
#           interference of two experts and the loss of merging them; what successive halving saves
#
# conf/train_quick.yaml has trained the models of RESULTS.md. conf/train_full.yaml takes almost three times
# as long: all parts together train for 128 experts' time (joint model, two sequential models, three
# seeds, curves), about two and a half hours on two cores, which would become about seven (estimates by the
# minutes of one seed in RESULTS.md).
#
# All parts need 155 GB of disk: 0.6 GB for each of 104 trainings, 0.3 GB for each of 290 merges and 16
# zip files. The times of a run are in EXPDIR/parts.tsv (when a part ended, its name, seconds) and
# EXPDIR/*/stages.tsv.
#
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2154 # options and what cmd.sh sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

experiment=full # full, or quick: one seed, four methods, five settings of each, part seeds
parts=""     # parts to run (full: all)
seeds=""     # seeds of the training (full: 1 2 3)
methods=""   # methods of the first seed, over languages (full: all of conf/tune_full.yaml)
leading=""   # methods of all seeds, over languages, and over languages and tasks
expdir=exp   # experiment directories: EXPDIR/seed1, EXPDIR/reach, ...
train_config=conf/train_quick.yaml # fine-tuning
baselines="" # one model for all (full: joint sequential sequential_reversed, quick: joint sequential); reach, extend: joint
compare_to="" # method that rows are compared with; where it is not, the first (full: lors_paper, quick: lors)
nj=2         # jobs at the same time

. utils/log.sh
. utils/parse_options.sh
no_more_arguments "$@"
. ./path.sh

langs=(en es fr it ru)
case $experiment in
quick)
    tune=conf/tune_quick.yaml
    : "${compare_to:=lors}" "${parts:=seeds}" "${seeds:=1}"
    : "${leading:=average task_arithmetic lors lors+boost}" "${methods:=$leading}"
    : "${baselines:=joint sequential}"
    ;;
full)
    tune=conf/tune_full.yaml
    : "${compare_to:=lors_paper}" "${parts:=seeds reach extend curves}" "${seeds:=1 2 3}"
    : "${baselines:=joint sequential sequential_reversed}"
    : "${leading:=average task_arithmetic tsv_m boosted_tsv_m iso_c iso_cts actmat lors_paper lors lors+boost}"
    : "${methods:=$(sed -n 's/^\([a-z][a-z0-9_+]*\):.*/\1/p' "$tune" | grep -vx 'halving\|inference' | xargs)}"
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
read -ra baselines_a <<<"$baselines"
# The searches of conf/tune_full.yaml whose merges have a term for each expert, and no other: a sum that
# is not calibrated or boosted, without random numbers. An expert can be added to these or taken away.
sums=(breadcrumbs lors lors_global lors_independent lors_keep_norm lors_paper lors_sparse_first
    lors_weights lors+lines mp star svp task_arithmetic task_arithmetic_weights task_arithmetic+lines)
first=$expdir/seed${seeds_a[0]}
if [[ " $parts " != *" seeds "* && ! -e $first/expert ]]; then
    die "no models of the first seed" "where: $first" "what to do: run the part seeds first"
fi
inference=conf/inference_whisper.yaml

# Run ./run.sh with the configurations of the experiment: recipe METHODS [option ...]
recipe() {
    ./run.sh --nj "$nj" --train_config "$train_config" --tune_config "$tune" \
        --baselines "$baselines" --compare_to "$(reference_among "$1")" --methods "$1" "${@:2}"
}

# Finish the models of the first seed, up to the merges of the leading methods: other parts take them
# for granted. Models of other configurations are refused, and finished ones take seconds.
complete_first() {
    recipe "$leading" --seed "${seeds_a[0]}" --expdir "$first" --stage experts --stop_stage merge
}

# Print the method of a list that rows are compared with: reference_among METHODS
reference_among() {
    if [[ " $1 " == *" $compare_to "* ]]; then echo "$compare_to"; else echo "${1%% *}"; fi
}

# Run inference with models NAME=DIR ... of a part, score it, and write reports of these, in which all
# rows are compared with the model --compare_to, or the base model if that is not among them:
# evaluate OUT [option ...] --models NAME=DIR ...
evaluate() {
    local out=$1 reference=base significance=$1/RESULTS.significance.json word systems=()
    shift
    for word; do
        if [[ $word == *=* ]]; then systems+=("${word%%=*}"); fi
    done
    if [[ " $* " == *" $compare_to="* ]]; then reference=$compare_to; fi
    "$python" -m lors.bin.evaluate --inference_config "$inference" --out "$out" "$@"
    "$python" -m lors.bin.results --expdirs "$out" --out "$out/RESULTS.md" --title "${out##*/}" \
        --systems "${systems[@]}" --compare_to "$reference"
    "$python" -m lors.bin.report --expdirs "$out" --systems "${systems[@]}" \
        --significance "$significance" --out "$out/report.html"
}

# Print NAME=DIR of the merges of a scope, one for each leading method.
merges() {
    local method
    for method in "${leading_a[@]}"; do echo "$method=$first/merged/$method.$1"; done
}

part_seeds() {
    local seed task
    for seed in "${seeds_a[@]}"; do
        recipe "$leading" --seed "$seed" --expdir "$expdir/seed$seed"
        if [ "$seed" = "${seeds_a[0]}" ] && [ "$methods" != "$leading" ]; then
            for task in asr st; do
                recipe "$methods" --seed "$seed" --expdir "$first" --tasks "$task" \
                    --stage tune --stop_stage inference
            done
            "$python" -m lors.bin.score_expdir --expdir "$first" --dump dump --split test \
                --langs "${langs[@]}" --tasks asr st --systems "${methods_a[@]/%/.langs}"
            recipe "$leading" --seed "$seed" --expdir "$first" --stage score
        fi
    done
    local systems=(base expert "${baselines_a[@]}") method
    for method in "${leading_a[@]}"; do systems+=("$method.langs" "$method.langs_tasks"); done
    local dirs=("${seeds_a[@]/#/$expdir/seed}")
    "$python" -m lors.bin.results --expdirs "${dirs[@]}" --systems "${systems[@]}" \
        --out "$expdir/RESULTS.md" --plots "$expdir/plots" --compare_to "$(reference_among "$leading")"
    "$python" -m lors.bin.report --expdirs "${dirs[@]}" --systems "${systems[@]}" \
        --significance "$expdir/RESULTS.significance.json" --out "$expdir/report.html"
}

part_reach() {
    local asr st
    # First, because it downloads.
    ./run.sh --langs ru --tasks asr --datadir data_read --dumpdir dump_read --stop_stage format \
        --expdir "$expdir/reach/data_read" --data_opts "--read_russian true"
    mapfile -t asr < <(merges asr)
    mapfile -t st < <(merges st)
    # An expert of something else is no end of normalised performance, hence its name.
    evaluate "$expdir/reach/recognition_models_translate" --dump dump --tasks st \
        --langs "${langs[@]:1}" --models base="$first/base" \
        "recognition_expert=$first/expert/{lang}_asr" "${asr[@]}"
    evaluate "$expdir/reach/translation_models_recognise" --dump dump --tasks asr \
        --langs "${langs[@]}" --models base="$first/base" "${st[@]}"
    evaluate "$expdir/reach/read_russian" --dump dump_read --tasks asr --langs ru \
        --models base="$first/base" prompt_expert="$first/expert/ru_asr" joint="$first/joint" \
        "${asr[@]}"
    part_left_out
}

# Every language recognised by the merge of the others, with the settings of the whole merge.
part_left_out() {
    local lang method factors factor
    local models=(base="$first/base" "expert=$first/expert/{lang}_asr")
    factors=$(scale_grid "${#langs[@]}" $((${#langs[@]} - 1)))
    for method in "${leading_a[@]}"; do
        factor=$(factor_of "$method" "$factors")
        for lang in "${langs[@]}"; do
            merge_without "$lang" "$method" "$factor" "$expdir/reach/models/$method.without_$lang"
        done
        models+=("$method=$expdir/reach/models/$method.without_{lang}")
    done
    evaluate "$expdir/reach/language_left_out" --dump dump --tasks asr --langs "${langs[@]}" \
        --models "${models[@]}"
}

# Merge the recognition experts of all languages but one, with the weights of the merge of all times a
# factor: merge_without LANG METHOD FACTOR OUT
merge_without() {
    local lang others=()
    for lang in "${langs[@]}"; do
        if [ "$lang" != "$1" ]; then others+=("$lang"); fi
    done
    merge_again "$first/merged/$2.asr" "$4" "$3" "${others[@]}"
}

# Merge the recognition experts of some languages with the settings of another merge, and with its
# weights times a factor: merge_again MERGE OUT FACTOR LANG ...
merge_again() {
    local lang experts=() weights=()
    for lang in "${@:4}"; do
        experts+=("$first/expert/${lang}_asr/model.pth")
        weights+=("$(weight_of "$lang" "$1" "$3")")
    done
    merge "$1" "$2" --experts "${experts[@]}" --weights "${weights[@]}"
}

# Print the weight of a language in a merge of the first languages, 1 for one that it lacks, times a
# factor: weight_of LANG MERGE FACTOR
weight_of() {
    local index weights
    mapfile -t weights < <(sed -n '/^  weights:$/,/^  [a-z]/s/^  - //p' "$2/merge.yaml")
    for index in "${!langs[@]}"; do
        if [ "${langs[index]}" = "$1" ]; then
            awk -v weight="${weights[index]:-1}" -v factor="$3" \
                'BEGIN {printf "%.9g\n", weight * factor}'
        fi
    done
}

# Print what scaling_coef of each method is multiplied by for another number of experts, and write the
# grid for it: scale_grid TUNED NUMBER [GRID]
scale_grid() {
    "$python" -m lors.bin.scale_grid --grid "$tune" --experts "$1" "$2" ${3:+--out "$3"}
}

# Print the factor of a method in what scale_grid printed; the weights of a merge carry it:
# factor_of METHOD FACTORS
factor_of() {
    awk -F '\t' -v name="$1" '$1 == name {print $2}' <<<"$2"
}

# Merge like MERGE, with other options, unless the merge is finished, has these options (OUT/options),
# and is newer than all that it is made from: merge MERGE OUT [option ...]. OUT/seconds has the wall
# time, and the CPU time of user and system.
merge() {
    local record=$1/merge.yaml out=$2 file is_current=true TIMEFORMAT='%R %U %S'
    shift 2
    if [ ! -e "$out/seconds" ]; then is_current=false; fi
    if [[ ! -e $out/options || $(<"$out/options") != "$*" ]]; then is_current=false; fi
    for file in "$record" "$@"; do # options and numbers are no files
        if [[ -e $file && ! $out/seconds -nt $file ]]; then is_current=false; fi
    done
    if [ "$is_current" = true ]; then return; fi
    mkdir -p "$out"
    rm -f "$out/seconds"
    {
        time "$python" -m lors.bin.merge --config "$record" --out "$out/model.pth" "$@" 2>&3
    } 3>&2 2>"$out/seconds.part"
    echo "$*" >"$out/options"
    mv "$out/seconds.part" "$out/seconds"
}

# A merge of four languages with the settings that are best for these, then the fifth, without another
# search: its expert is added to a sum, and all five are merged again by other methods.
part_extend() {
    local method changed start more fewer four=$expdir/curves/4_languages out=$expdir/extend/models
    local models=(base="$first/base" "expert=$first/expert/{lang}_asr" joint="$first/joint")
    merges_of_languages 4 "$leading" --stop_stage merge
    more=$(scale_grid 4 5) fewer=$(scale_grid 5 4)
    for method in "${leading_a[@]}"; do
        start=$four/merged/$method.asr
        if is_sum "$method"; then
            add_expert ru 1 "$start" "$out/$method.added_ru"
            add_expert it -1 "$first/merged/$method.asr" "$out/$method.removed_it"
        else
            merge_again "$start" "$out/$method.added_ru" "$(factor_of "$method" "$more")" "${langs[@]}"
            merge_without it "$method" "$(factor_of "$method" "$fewer")" "$out/$method.removed_it"
        fi
        models+=("$method=$first/merged/$method.asr" "${method}_before_ru=$start"
            "${method}_added_ru=$out/$method.added_ru"
            "${method}_removed_it=$out/$method.removed_it")
    done
    write_costs >"$expdir/extend/cost.tsv"
    log "seconds of merging and of training: $expdir/extend/cost.tsv"
    evaluate "$expdir/extend" --dump dump --tasks asr --langs "${langs[@]}" --models "${models[@]}"
    for method in "${leading_a[@]}"; do # beside the merge that was tuned with all languages
        changed=("${method}_before_ru" "${method}_added_ru" "${method}_removed_it")
        "$python" -m lors.bin.results --expdirs "$expdir/extend" --out "$expdir/extend/$method.md" \
            --title "$method" --systems base expert joint "$method" "${changed[@]}" \
            --compare_to "$method" --family "${changed[@]}"
    done
}

# Whether merges by a method have a term for each expert.
is_sum() { [[ " ${sums[*]} " == *" $1 "* ]]; }

# Add a recognition expert to a sum, or take it away, with its weight times a factor:
# add_expert LANG FACTOR MERGE OUT
add_expert() {
    merge "$3" "$4" --weights "$(weight_of "$1" "$3" "$2")" \
        --experts "$first/expert/${1}_asr/model.pth" --onto "$3/model.pth"
}

# Print a table of what the merges of part extend cost, and the trainings that they stand beside: the
# joint model learns recognition and translation, the pairs of all experts.
write_costs() {
    local name method folder pairs=("$first"/expert/*/)
    printf 'work\tmerged_experts\twall_s\tcpu_s\n'
    printf 'training %s\tn/a\t%s\n' expert/ru_asr "$(seconds_of_training "$first/expert/ru_asr")" \
        "joint, ${#pairs[@]} pairs" "$(seconds_of_training "$first/joint")"
    for name in added_ru removed_it; do
        for method in "${leading_a[@]}"; do
            folder=$expdir/extend/models/$method.$name
            printf 'merging %s\t%s\t' "$method.$name" \
                "$(grep -o '[^ ]*model\.pth' <<<"$(sed 's/--onto.*//' "$folder/options")" | wc -l)"
            awk '{printf "%.1f\t%.1f\n", $1, $2 + $3}' "$folder/seconds"
        done
    done
}

# Print the wall time of a training by its logs, those before an interruption included, and this time
# for each of its threads: the CPU time, unless the machine had other work or a GPU.
seconds_of_training() {
    local log times total=0 threads
    for log in "$1"/train*.log; do
        if [ ! -e "$log" ]; then continue; fi
        mapfile -t times < <(sed -n 's/^\[[^]]*\] \([-0-9]* [0-9:]*\),.*/\1/p' "$log")
        if [ "${#times[@]}" -eq 0 ]; then continue; fi
        total=$((total + $(date -d "${times[-1]}" +%s) - $(date -d "${times[0]}" +%s)))
    done
    if [ "$total" -eq 0 ]; then
        printf 'n/a\tn/a' # models without their logs, for example from an archive
        return
    fi
    threads=$(sed -n 's/.*\<OMP_NUM_THREADS=\([0-9]*\).*/\1/p' "$1/run.sh")
    printf '%s\t%s' "$total" $((total * ${threads:-1}))
}

part_curves() {
    local number hours rate config all=${first##*/} curves=$expdir/curves
    for number in 2 3 4; do
        merges_of_languages "$number" "$leading"
    done
    curve_of_merges settings "task_arithmetic lors_paper lors_rank lors_density tsv_m actmat" \
        --tune_config conf/tune_curves.yaml --stop_stage tune
    report_searches "$curves/settings" "$curves/settings"
    "$python" -m lors.bin.replay_halving --expdirs "$curves/settings" --dump dump |
        tee "$curves/settings/halving.txt"
    "$python" -m lors.bin.interference --expdir "$first" --dump dump --langs "${langs[@]}" \
        --tasks asr --inference_config "$inference" --out "$curves/INTERFERENCE.md"
    for hours in 0.05 0.1; do
        curve "${hours}_hours" "$leading" --train_hours "$hours" --dumpdir "dump_${hours}_hours"
    done
    for rate in 0.000005 0.00002; do
        config=$curves/train_$rate.yaml
        mkdir -p "$curves"
        sed "s/lr: 0\.00001$/lr: $rate/" "$train_config" >"$config"
        if cmp -s "$config" "$train_config"; then
            die "no learning rate to replace" "where: $train_config" "expected: lr: 0.00001"
        fi
        curve "rate_$rate" "$leading" --train_config "$config"
    done
    report_curve languages "number of languages ($all: ${#langs[@]})" \
        "$curves"/{2,3,4}_languages "$first"
    report_curve hours "hours of training data of each language ($all: all)" \
        "$curves"/{0.05,0.1}_hours "$first"
    report_curve rates "learning rate ($all: 0.00001)" \
        "$curves/rate_0.000005" "$first" "$curves/rate_0.00002"
}

# Write tables and the figure of a curve to EXPDIR/curves/NAME: report_curve NAME X_LABEL EXPDIR ...
report_curve() {
    report_searches "$expdir/curves/$1" "${@:3}" --systems "${leading_a[@]/%/.langs}" --x_label "$2"
}

# Write tables of the searches of some experiments to OUT/SWEEPS.md: report_searches OUT EXPDIR ...
# The first seed has searches for translation too, which no other experiment has.
report_searches() {
    "$python" -m lors.bin.results --sweeps_only --tasks asr --out "$1/SWEEPS.md" \
        --plots "$1/plots" --title "Searches on dev" --expdirs "${@:2}"
}

# Tune and merge the experts of the first languages, with the grid for their number:
# merges_of_languages NUMBER METHODS [option ...]
merges_of_languages() {
    local grid=$expdir/curves/tune_${1}_languages.yaml
    scale_grid "${#langs[@]}" "$1" "$grid" >/dev/null
    curve_of_merges "${1}_languages" "$2" --langs "${langs[*]:0:$1}" --tune_config "$grid" "${@:3}"
}

# Run the recipe for recognition in EXPDIR/curves/NAME, with the first seed, whose experts it is
# compared with: curve NAME METHODS [option ...]
curve() {
    recipe "$2" --seed "${seeds_a[0]}" --expdir "$expdir/curves/$1" --tasks asr --baselines "" "${@:3}"
}

# The same with the experts of the first seed.
curve_of_merges() {
    local out=$expdir/curves/$1 name
    mkdir -p "$out"
    for name in base expert stats; do ln -sfn "$(realpath "$first/$name")" "$out/$name"; done
    curve "$@" --skip_train true --stage tune
}

is_complete=false
for part in $parts; do
    log "part $part"
    began=$SECONDS
    if [[ $part != seeds && $is_complete == false ]]; then complete_first; fi
    is_complete=true
    "part_$part"
    printf '%(%FT%T)T\t%s\t%s\n' -1 "$part" $((SECONDS - began)) >>"$expdir/parts.tsv"
    log "part $part took $((SECONDS - began)) s"
done
