#!/usr/bin/env bash
# Stages of a recipe script, to be sourced: the choice of stages, their commands, the record of the
# run. A recipe script has this form:
#
#   stage=1 # first stage to run
#   stop_stage=2 # last stage to run
#   dry_run=false # print the commands instead of running them
#   submit=false # run the script itself as a batch job
#   expdir=exp # models and logs
#
#   program=./run.sh   # what the user calls
#   . utils/stages.sh
#   . utils/parse_options.sh
#   no_more_arguments "$@"
#   . ./path.sh
#   . ./cmd.sh
#   stages=(data train)   # names; the number of a stage is its place in this list
#   check_options lors    # sets the lists that lors.bin.check_recipe prints
#   start_run
#   if begin data "corpus of $langs"; then
#       run_cpu 1 data/log/data.log local/data.sh --out data
#   fi
#   ...
#   end_run
#
# Optional arrays:
#   training   above check_options: names of the stages that the option --skip_train leaves out
#   recorded   above start_run: arguments of lors.bin.record_run, which describe the run for
#              utils/status; without them the run is not recorded, nor what its stages take:
#              EXPDIR/stages.tsv has when a stage ended, its name, seconds, cores, processor, command
#
# shellcheck source-path=SCRIPTDIR/..
# shellcheck disable=SC2154,SC2034 # variables of the script that sources this file
. utils/log.sh

# Print a word as it can be typed in a command.
typed() {
    local word=$1
    if [[ -z $word || $word == *[!A-Za-z0-9_./:=,+-]* ]]; then word=${word@Q}; fi
    printf '%s\n' "$word"
}

# The command line, as words and as text that can be typed again, and what stands before it: the
# variables that decide where and with which Python it runs, if the user has set them.
words=("$@")
command_line=$program
for word in "$@"; do command_line+=" $(typed "$word")"; done
environment=
for name in LORS_PYTHON LORS_CMD_BACKEND; do
    if [ -n "${!name:-}" ]; then environment+="$name=$(typed "${!name}") "; fi
done
export LORS_DRIVER=$$ # lors/processes.py, utils/jobs.py
training=()
recorded=()

# --- before the first stage ---------------------------------------------------------------------

# Print the number of a stage that is given by name or number.
stage_number() {
    local number
    for number in "${!stages[@]}"; do
        if [[ $1 == "${stages[number]}" || $1 == $((number + 1)) ]]; then
            echo $((number + 1))
            return
        fi
    done
    die -2 "unknown stage: $1" "expected: 1 to ${#stages[@]}, or one of: ${stages[*]}"
}

# Set `planned` to the names of the stages to run; `stage` and `stop_stage` become numbers.
plan_stages() {
    local number name
    planned=()
    stage=$(stage_number "$stage")
    stop_stage=$(stage_number "$stop_stage")
    if [ "$stage" -gt "$stop_stage" ]; then
        die -2 "the first stage is after the last" "where: --stage $stage --stop_stage $stop_stage"
    fi
    for ((number = stage; number <= stop_stage; number++)); do
        name=${stages[number - 1]}
        if [[ " ${training[*]} " == *" $name "* && $skip_train == true ]]; then continue; fi
        planned+=("$name")
    done
}

# Check the options of script $1 (lors, ...) and set the variables that lors.bin.check_recipe
# prints, one a line as NAME<TAB>WORD<TAB>WORD; each has to be declared in the script.
check_options() {
    local _lines _name _values
    script=$1
    plan_stages
    _lines=$("$python" -m lors.bin.check_recipe "$1" --program "$program" \
        --cmd_backend "$cmd_backend" --stages "${planned[@]}" --options "${options[@]}")
    while IFS=$'\t' read -r _name _values; do
        declare -p "$_name" >/dev/null || die "no variable of this script: $_name"
        IFS=$'\t' read -ra "${_name?}" <<<"$_values"
    done <<<"$_lines"
    cores=${job_cores:-$nj}     # of a single job
    array_cores=${job_cores:-1} # of each job of an array
}

# With --submit: submit the script as a batch job and end; in a dry run print the command.
submit_driver() {
    local job
    if [ ${#driver_cmd[@]} -eq 0 ]; then
        local before=${environment%LORS_CMD_BACKEND=*} # what else stands before the command
        die -2 "--submit needs a cluster" "where: cmd_backend=$cmd_backend in cmd.sh" \
            "what to do: set it to slurm, or: ${before}LORS_CMD_BACKEND=slurm $command_line"
    fi
    local driver=("${driver_cmd[@]}" --detach true "$expdir/log/driver.log"
        env LORS_SUBMITTED=true "$program" "${words[@]}")
    if [ "$dry_run" = true ]; then
        run "${driver[@]}"
        return
    fi
    job=$("${driver[@]}")
    log "submitted as job $job, its log is $expdir/log/driver.log"
    log "scancel $job ends it with all of its jobs"
    if [ ${#recorded[@]} -gt 0 ]; then log "utils/status ${expdir@Q} shows its progress"; fi
    exit 0
}

start_run() {
    if [ "$submit" = true ] && [ -z "${LORS_SUBMITTED:-}" ]; then submit_driver; fi
    trap 'on_exit $?' EXIT
}

# --- the stages ---------------------------------------------------------------------------------

current=       # number and name of the stage that runs
finished=false # whether the script has come to its end

# Return whether to run stage $1; if so, log its description $2.
begin() {
    end_stage
    if [[ " ${planned[*]} " != *" $1 "* ]]; then return 1; fi
    current="$(stage_number "$1") ($1)" began=$SECONDS
    log "stage $current: $2"
    record --stage "$1" || true # it has printed its error; the stage does not need the record
}

end_stage() {
    if [ -z "$current" ]; then return; fi
    local seconds=$((SECONDS - began))
    log "stage $current took $seconds s"
    if [ "$dry_run" = false ] && [ ${#recorded[@]} -gt 0 ]; then
        printf '%(%FT%T)T\t%s\t%s\t%s\t%s\t%s\n' -1 "$current" "$seconds" "$(nproc)" \
            "$(processor)" "$command_line" >>"$expdir/stages.tsv" || log "no record of this time"
    fi
    current=
}

# Print the name of the processor, which says what the seconds of a stage mean.
processor() {
    local name=''
    if [ -r /proc/cpuinfo ]; then
        name=$(sed -n '/^model name/{s/^[^:]*: *//p;q}' /proc/cpuinfo)
    fi
    echo "${name:-$(uname -m)}"
}

end_run() {
    end_stage
    log "done in $SECONDS s"
    finished=true
}

on_exit() {
    # A signal that ends bash leaves $? of the last command, which may be 0.
    if [ "$1" -eq 0 ] && [ "$finished" = false ]; then set -- 143; fi
    if [ "$1" -ne 0 ] && [ -n "$current" ]; then
        log "stage $current failed; after mending the cause, go on with:"
        log "cd ${PWD@Q} && $environment$command_line"
    fi
    record --status "$1" || true # the exit code of the run stays
}

# Write EXPDIR/recipe.json for utils/status: --stage NAME at its begin, --status CODE at the end.
record() {
    if [ "$dry_run" = true ] || [ ${#recorded[@]} -eq 0 ]; then return; fi
    "$python" -m lors.bin.record_run "$@" --pid $$ --command "$command_line" \
        --environment "$environment" --script "$script" --skip_train "$skip_train" \
        --stop_stage "$stop_stage" "${recorded[@]}"
}

# --- commands -----------------------------------------------------------------------------------

# Run a command, or print it in a dry run, with the submission that utils/slurm.py would make.
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

# Run a training: run_train THREADS [WRAPPER OPTION ...] [JOB=1:N] LOGFILE COMMAND ... The job has on
# each node a process for each GPU, and the cores and memory of one process for each of them.
run_train() {
    local processes=$((ngpu > 1 ? ngpu : 1)) memory=()
    if [ "$processes" -gt 1 ] && [ -n "${train_mem:-}" ]; then
        if [[ ! $train_mem =~ ^[1-9][0-9]*$ ]]; then
            die -2 "the memory of a training process is no number" "where: train_mem in cmd.sh" \
                "expected: GB, without a unit" "got: $train_mem"
        fi
        memory=(--mem "$((processes * train_mem))G")
    fi
    run "${train_cmd[@]}" "${memory[@]}" --gpu "$ngpu" --num_nodes "$num_nodes" \
        --num_threads $((processes * $1)) "${@:2}"
}

# Run a job without a GPU: run_cpu THREADS LOGFILE COMMAND ...; on this machine the output is shown,
# without a log.
run_cpu() {
    local log=$2
    if [ "$cmd_backend" = local ]; then log=-; fi
    run "${cpu_cmd[@]}" --num_threads "$1" "$log" "${@:3}"
}
