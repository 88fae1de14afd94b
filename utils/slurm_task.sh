#!/usr/bin/env bash
# Run one job of a call of utils/slurm.py, as a task of a Slurm job array:
#   sbatch --array=... utils/slurm_task.sh DIRECTORY
#
# In bash, because Python takes longer to start, on every node, than a short job runs.
#
# utils/slurm_files.py describes DIRECTORY: its file `task` says what to run, and utils/slurm.py waits
# for its file `status.ARRAY_NUMBER`, the exit status. stdout is the job's log, in the format that
# utils/jobs.py describes.
#
# Signals:
#   TERM  from scancel, a preemption or the time limit: end the command and leave no status, because
#         the job may be in the queue again already.
#   USR1  the warning before the time limit: end the command; put the job back into the queue if
#         --requeue allows it. A command that ends with status 85 goes back, too.
# docs/slurm_recovery.md explains the failures of a task and its reactions.
#
# All names begin with _: if the environment had a variable of the same name, the command would get
# the value that this script assigns.
export -n SHELLOPTS # a command in bash must not get the options of this script
set -u +e           # an exported SHELLOPTS may have set -e
SECONDS=0           # SECONDS may have been exported

_directory=$1
_number=$SLURM_ARRAY_TASK_ID
# With the number, because Slurm takes the id of the last task for the id of the whole array.
_job=${SLURM_ARRAY_JOB_ID}_$_number
_restart=${SLURM_RESTART_COUNT:-0}
_go_on_later=85
_grace=60 # seconds between TERM and KILL, if Slurm waits that long
_settle=3 # most seconds from a signal to the command until the same signal to this script

_asked='' # the signal that this script got; TERM and the like replace USR1
_pid=''   # process id of the command, and id of its process group
_take() {
    if [ "$1" != USR1 ] || [ -z "$_asked" ]; then _asked=$1; fi
    if [ -n "$_pid" ]; then kill -TERM -- "-$_pid" 2>/dev/null; fi
}
trap '_take HUP' HUP
trap '_take INT' INT
trap '_take TERM' TERM
trap '_take USR1' USR1

_say() { printf '# %s\n' "$@"; }
# Begin a line in the log, if the last line of the command has no end.
_end_line() {
    if [ -f "/proc/$$/fd/1" ] && [ -n "$(tail -c 1 "/proc/$$/fd/1")" ]; then echo; fi
}
_now() { printf -v _date '%(%Y-%m-%dT%H:%M:%S)T' -1; }

# Wait at most $1 seconds until the command $2 ... succeeds; fail after that time.
_within() {
    local _end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -gt "$_end" ]; then return 1; fi
        sleep 0.1
    done
}
_is_asked() { [ -n "$_asked" ]; }
_is_to_end() { _is_asked && [ "$_asked" != USR1 ]; } # Slurm ends the task
_end_with_job() {
    _now
    _say "Ended by Slurm (SIG$_asked) at $_date"
    exit $((128 + $(kill -l "$_asked")))
}
# shellcheck disable=SC2329 # it is called by _within
_is_over() { ! kill -0 -- "-$_pid" 2>/dev/null; }

# --- what to run --------------------------------------------------------------------------------

# The format is that of task_file in utils/slurm_files.py.
mapfile -d '' -t _told <"$_directory/task" || exit 1
_num_threads=${_told[0]} _gpu=${_told[1]} _requeue=${_told[2]} _detached=${_told[3]}
_texts=()
for _piece in "${_told[@]:4}"; do
    if [[ $_piece == w* ]]; then _texts+=("${_piece#w}"); else _texts[-1]+=$_number${_piece#j}; fi
done

export OMP_NUM_THREADS=$_num_threads MKL_NUM_THREADS=$_num_threads
# As SLEEPING_THREADS in utils/jobs.py.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY-PASSIVE} GOMP_SPINCOUNT=${GOMP_SPINCOUNT-0}
if [ "$_gpu" = 0 ]; then export CUDA_VISIBLE_DEVICES=; fi # else all GPUs are visible

# See docs/slurm_recovery.md: "A job that ended and starts again", "A job that runs twice".
if read -r _status 2>/dev/null <"$_directory/status.$_job"; then exit "$_status"; fi
echo "$_restart" >"$_directory/started.$_job"

# --- the command, in a process group of its own -------------------------------------------------

# Run programs only, like utils/run.py, not builtins of bash. (One difference remains: bash runs a
# file without #! as a script.)
_start() {
    if ! type -P -- "$1" >/dev/null && [ ! -e "$1" ]; then
        echo "cannot start $1: No such file or directory"
        exit 127
    fi
    exec -- "$@"
}
read -r _host </proc/sys/kernel/hostname
_now
_say "${_texts[0]}" "Running on $_host, process $$, Slurm job $_job" "Started at $_date"
echo "#"
{
    set -m
    _start "${_texts[@]:1}" </dev/null 2>&3 3>&- &
    _pid=$!
    set +m
    if _is_asked; then _take "$_asked"; fi # a signal that came before the command had a process id
    wait "$_pid"
    _status=$?        # of the command, or 128 + the signal that interrupted the waiting
    _ended_by=$_asked # empty if the command ended before any signal
} 3>&2 2>/dev/null # bash reports a killed command at any of these lines
if [ -n "$_ended_by" ]; then
    if [ "$_asked" = USR1 ]; then
        _end_line
        _say 'The time is nearly up: ending the command'
    fi
    _within "$_grace" _is_over
fi
kill -KILL -- "-$_pid" 2>/dev/null # and all that an ended command has left running
if [ -n "$_ended_by" ]; then
    wait "$_pid" 2>/dev/null
    _status=$?
fi
_end_line
# Bash has the same status for a command that a signal killed and for one that exits with 128 + a
# signal. Signals go up to 31: a status from 160 has another meaning.
if [ "$_status" -gt 128 ] && [ "$_status" -lt 160 ]; then
    _killed=$(kill -l "$_status")
    if [ "$_killed" = KILL ]; then _killed+=' (out of memory?)'; fi
    _say "Ended by SIG$_killed"
fi
# Slurm signals the processes of a job one after the other, the command perhaps first; and the command
# may end with any status, because a library may make an error of its own of the signal.
if [ -z "$_ended_by" ] && [ "$_status" -ne 0 ] && [ "$_status" -ne "$_go_on_later" ]; then
    if _within "$_settle" _is_asked; then _ended_by=$_asked; fi
fi
_say "Accounting: time=$SECONDS threads=$_num_threads"

# --- how it ended -------------------------------------------------------------------------------

if _is_to_end; then _end_with_job; fi
_latest=''
read -r _latest 2>/dev/null <"$_directory/started.$_job"
if [ "${_latest:-$_restart}" != "$_restart" ]; then
    _say 'Ended, but Slurm has started the job on another node: the other one counts'
    exit 1
fi
# A command that was told to stop may end with any status.
if [ -n "$_ended_by" ]; then _status=$_go_on_later; fi
if [ "$_status" = "$_go_on_later" ] && [ "$_requeue" -gt 0 ]; then
    _times=0 # cannot be counted
    if printf x >>"$_directory/requeued.$_number"; then
        _times=$(<"$_directory/requeued.$_number")
        _times=${#_times}
    fi
    if [ "$_times" -ge 1 ] && [ "$_times" -le "$_requeue" ]; then
        _say "Back into the queue, time $_times of $_requeue"
        for ((_try = 0; _try < 30; _try++)); do # the controller may be away
            if _is_to_end; then _end_with_job; fi # a cancelled job must not come back
            if scontrol requeue "$_job"; then
                _within 60 _is_to_end # Slurm ends a task that it requeues
                exit 0
            fi
            sleep 2
        done
        exit 1
    fi
    _say "Not back into the queue again: --requeue $_requeue"
fi
_now
_say "Finished at $_date with status $_status"
# Closing the log flushes it: on another machine, the log must be there when the status is.
exec >&- 2>&-
if _is_to_end; then exit $((128 + $(kill -l "$_asked"))); fi # a signal during the flush
echo "$_status" >"$_directory/status.$_job"
if [ "$_detached" = true ]; then rm -rf "$_directory"; fi # no call waits to remove it
exit "$_status"
