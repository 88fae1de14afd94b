#!/usr/bin/env bash
# Stages that several recipe scripts share, to be sourced after utils/stages.sh. They read the options
# of the script, the lists of check_options and `inference_gpu`, the words that ask for a GPU.
#
# shellcheck source-path=SCRIPTDIR/..
# shellcheck disable=SC2154 # variables of the script that sources this file

stage_data() {
    if begin data "corpus of ${langs[*]}"; then
        run_cpu "$cores" "$datadir/log/data.log" local/data.sh \
            --out "$datadir" --langs "${langs[*]}" --nj "$cores" "${data_opts[@]}"
    fi
}

# stage_format SPLIT ... [OPTION ...]: further options of lors.bin.format_audio
stage_format() {
    if begin format "16 kHz mono FLAC in $dumpdir"; then
        run_cpu "$cores" "$dumpdir/log/format.log" \
            "$python" -m lors.bin.format_audio --data "$datadir" --dump "$dumpdir" \
            --langs "${langs[@]}" --splits "$@" --nj "$cores" "${training_clips[@]}"
    fi
}

stage_base() {
    if begin base "base model in $expdir/base"; then
        run_cpu 1 "$expdir/log/import_base.log" \
            "$python" -m lors.bin.import_base --model_family "$model_family" \
            --base_model "$base_model" "${import_options[@]}" --out "$expdir/base"
    fi
}

stage_stats() {
    if begin stats "shapes of the training data"; then
        local checked=() # before the experts: does the configuration allow the baselines?
        if [ ${#baselines[@]} -gt 0 ]; then checked=(--baselines "${baselines[@]}"); fi
        run "${train_cmd[@]}" --num_threads "$cores" "$expdir/log/stats.log" \
            "$python" -m lors.bin.train --base "$expdir/base" --pairs "${pairs[@]}" \
            --dump "$dumpdir" --config "$train_config" --dev_utterances "$dev_utterances" \
            --collect_stats --out "$expdir/stats" "${checked[@]}"
    fi
}

# One model for each pair: train_pairs NAME CONFIG, into EXPDIR/NAME
train_pairs() {
    run_train "$array_cores" \
        --max_jobs_run "$nj" JOB=1:${#pairs[@]} "$expdir/log/train_$1.JOB.log" \
        "$python" -m lors.bin.train --base "$expdir/base" --pairs "${pairs[@]}" --dump "$dumpdir" \
        --config "$2" --dev_utterances "$dev_utterances" --stats "$expdir/stats" \
        --seed "$seed" --ngpu "$ngpu" --num_nodes "$num_nodes" \
        --only JOB --out "$expdir/$1"
}

# Print the threads of each of $1 models of all pairs: they divide the cores among them.
threads_of() { echo "${job_cores:-$((nj > $1 ? nj / $1 : 1))}"; }

# stage_baselines [OPTION ...]: further options of lors.bin.train
stage_baselines() {
    if begin baselines "one model for all pairs: ${baselines[*]:-none}"; then
        if [ ${#baselines[@]} -eq 0 ]; then return; fi
        run_train "$(threads_of ${#baselines[@]})" \
            --max_jobs_run "$nj" JOB=1:${#baselines[@]} "$expdir/log/train_baseline.JOB.log" \
            "$python" -m lors.bin.train --base "$expdir/base" --pairs "${pairs[@]}" \
            --dump "$dumpdir" --config "$train_config" --dev_utterances "$dev_utterances" \
            --stats "$expdir/stats" --seed "$seed" --ngpu "$ngpu" --num_nodes "$num_nodes" \
            --baselines "${baselines[@]}" "$@" --only JOB --out "$expdir"
    fi
}

stage_tune() {
    if begin tune "merges of scope ${scopes[*]} on dev"; then
        run "${infer_cmd[@]}" "${inference_gpu[@]}" --num_threads "$array_cores" \
            --max_jobs_run "$nj" JOB=1:${#searches[@]} "$expdir/log/tune.JOB.log" \
            "$python" -m lors.bin.tune --expdir "$expdir" --dump "$dumpdir" --langs "${langs[@]}" \
            --tasks "${tasks[@]}" --methods "${methods[@]}" --grid "$tune_config" \
            --inference_config "$inference_config" --device "$device" --jobs "$nj" --only JOB
    fi
}

stage_merge() {
    if begin merge "merged models in $expdir/merged"; then
        run_cpu "$cores" "$expdir/log/merge.log" \
            "$python" -m lors.bin.merge_tuned --expdir "$expdir" --methods "${methods[@]}" \
            --langs "${langs[@]}" --scopes "${scopes[@]}"
    fi
}

# The test sets of some data directories: infer DUMP LANG ...
infer() {
    run "${infer_cmd[@]}" "${inference_gpu[@]}" --num_threads "$array_cores" \
        --max_jobs_run "$nj" JOB=1:"$nj" "$expdir/log/inference.JOB.log" \
        "$python" -m lors.bin.inference --expdir "$expdir" --dump "$1" \
        --langs "${@:2}" --tasks "${tasks[@]}" --systems "${systems[@]}" --split test \
        --inference_config "$inference_config" --device "$device" --job JOB --num_jobs "$nj"
}

# Scores and report: score DUMP LANG ...; `report_options` are further words for the report.
score() {
    run "$python" -m lors.bin.score_expdir --expdir "$expdir" --dump "$1" \
        --langs "${@:2}" --tasks "${tasks[@]}" --systems "${systems[@]}" --split test
    run "$python" -m lors.bin.results --expdirs "$expdir" --out "$expdir/RESULTS.md" \
        --plots "$expdir/plots" --command "$command_line" "${report_options[@]}"
    run "$python" -m lors.bin.report --expdirs "$expdir" --out "$expdir/report.html"
}

stage_inference() {
    if begin inference "test sets by ${systems[*]}"; then infer "$dumpdir" "${langs[@]}"; fi
}

stage_score() {
    if begin score "scores, $expdir/RESULTS.md"; then score "$dumpdir" "${langs[@]}"; fi
}
