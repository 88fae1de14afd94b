#!/usr/bin/env bash
# Run one task of utils/slurm.py as its Slurm job: sbatch --array=... utils/slurm_task.sh DIRECTORY
#
# In bash, because Python takes longer to start than a short task, on every node.
#
# DIRECTORY/task says what to run, as utils/slurm.py has written it; the number is Slurm's, and Slurm
# has made the log our stdout. When the task has ended, its exit status appears as a line in
# DIRECTORY/status.ARRAY_NUMBER; utils/slurm.py waits for these lines.
#
# Signals: TERM (scancel, preemption, a time limit) ends the command and leaves no status, because
# Slurm may have put the job back into the queue already. USR1 is the warning before the time limit:
# the command is ended and the job goes back into the queue, where the call allows it (--requeue);
# so does a command that ends with status 85, "go on later". What was requeued starts again with the
# same command, so the command has to find what it has done. So does, on another node, a job whose
# node Slurm has lost sight of: of the two that then may be at work only the later leaves a status.
#
# Our names begin with _: what bash sets of an imported name, the command would find changed.
export -n SHELLOPTS # else a command in bash would have our options
set -u +e           # the latter may come from an exported SHELLOPTS
SECONDS=0           # and this may have been exported too

_directory=$1
_number=$SLURM_ARRAY_TASK_ID
# The array's id and the index: the plain id of an array's last task means all of it.
_job=${SLURM_ARRAY_JOB_ID}_$_number
_restart=${SLURM_RESTART_COUNT:-0}
_go_on_later=85
_grace=60 # seconds between TERM and KILL, if Slurm waits as long
_settle=3 # seconds until a command counts as killed by itself, not together with its job

_asked='' # what Slurm wants of us, by a signal
_pid=''   # of the command, and of its process group
_take() {
    if [ "$1" != USR1 ] || [ -z "$_asked" ]; then _asked=$1; fi
    if [ -n "$_pid" ]; then kill -TERM -- "-$_pid" 2>/dev/null; fi
}
trap '_take HUP' HUP
trap '_take INT' INT
trap '_take TERM' TERM
trap '_take USR1' USR1

_say() { printf '# %s\n' "$@"; }
# What we say begins a line, also after a command that has not ended its last one.
_end_line() {
    if [ -f "/proc/$$/fd/1" ] && [ -n "$(tail -c 1 "/proc/$$/fd/1")" ]; then echo; fi
}
_now() { printf -v _date '%(%Y-%m-%dT%H:%M:%S)T' -1; }

# Wait until a command succeeds, for some seconds; false if it does not.
_within() {
    local _end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -gt "$_end" ]; then return 1; fi
        sleep 0.1
    done
}
_is_asked() { [ -n "$_asked" ]; }
_is_to_end() { _is_asked && [ "$_asked" != USR1 ]; } # here, whatever becomes of the job
_end_with_job() {
    _now
    _say "Ended by Slurm (SIG$_asked) at $_date"
    exit $((128 + $(kill -l "$_asked")))
}
# shellcheck disable=SC2329 # it is called by _within
_is_over() { ! kill -0 -- "-$_pid" 2>/dev/null; }

# --- what to do ---------------------------------------------------------------------------------

# Four settings, then texts in pieces: w begins a text, j goes on after the task's number.
mapfile -d '' -t _told <"$_directory/task" || exit 1
_num_threads=${_told[0]} _gpu=${_told[1]} _requeue=${_told[2]} _detached=${_told[3]}
_texts=()
for _piece in "${_told[@]:4}"; do
    if [[ $_piece == w* ]]; then _texts+=("${_piece#w}"); else _texts[-1]+=$_number${_piece#j}; fi
done

export OMP_NUM_THREADS=$_num_threads MKL_NUM_THREADS=$_num_threads
if [ "$_gpu" = 0 ]; then export CUDA_VISIBLE_DEVICES=; fi # Slurm leaves all visible without

# Slurm may put a job back into the queue that has just ended, or that runs on a node which does not
# answer. The first is not to run again, and of the second the one that began last counts.
if read -r _status 2>/dev/null <"$_directory/status.$_job"; then exit "$_status"; fi
echo "$_restart" >"$_directory/started.$_job"

# --- the command, in a process group of its own -------------------------------------------------

# Become a program, as with utils/run.py; but bash also takes a text without #! for its own script.
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
    if _is_asked; then _take "$_asked"; fi # it has come too early to be passed on
    wait "$_pid"
    _status=$?        # of the command, or of a signal that came in between
    _ended_by=$_asked # nothing if it has ended by itself, whatever is asked of us later
} 3>&2 2>/dev/null # where bash says, at any of these lines, that it was killed
if [ -n "$_ended_by" ]; then
    if [ "$_asked" = USR1 ]; then
        _end_line
        _say 'The time is nearly up: ending the command'
    fi
    _within "$_grace" _is_over
fi
kill -KILL -- "-$_pid" 2>/dev/null # also what an ended command has left running
if [ -n "$_ended_by" ]; then
    wait "$_pid" 2>/dev/null
    _status=$?
fi
_end_line
# Bash cannot tell a command that was killed from one that says so of a process of its own. Signals
# go up to 31: a status from 160 means something else.
if [ "$_status" -gt 128 ] && [ "$_status" -lt 160 ]; then
    _killed=$(kill -l "$_status")
    if [ "$_killed" = KILL ]; then _killed+=' (out of memory?)'; fi
    _say "Ended by SIG$_killed"
    # Slurm signals the processes of a job in turn, and the command may have been the first.
    if _within "$_settle" _is_asked; then _ended_by=$_asked; fi
fi
_say "Accounting: time=$SECONDS threads=$_num_threads"

# --- how it ended -------------------------------------------------------------------------------

if _is_to_end; then _end_with_job; fi
_latest=''
read -r _latest 2>/dev/null <"$_directory/started.$_job"
if [ "${_latest:-$_restart}" != "$_restart" ]; then
    _say 'Ended here, but Slurm has started it on another node: that one counts'
    exit 1
fi
# Whatever the command said when it was told to stop.
if [ -n "$_ended_by" ]; then _status=$_go_on_later; fi
if [ "$_status" = "$_go_on_later" ] && [ "$_requeue" -gt 0 ]; then
    _times=0 # unknown
    if printf x >>"$_directory/requeued.$_number"; then
        _times=$(<"$_directory/requeued.$_number")
        _times=${#_times}
    fi
    if [ "$_times" -ge 1 ] && [ "$_times" -le "$_requeue" ]; then
        _say "Back into the queue, for the $_times. time of $_requeue"
        for ((_try = 0; _try < 30; _try++)); do # while the controller is away, say
            if _is_to_end; then _end_with_job; fi # cancelled: it would come back
            if scontrol requeue "$_job"; then
                _within 60 _is_to_end # Slurm sees to that
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
# Whoever sees the status, on another machine, is to see the log too: to close it is to flush it.
exec >&- 2>&-
if _is_to_end; then exit $((128 + $(kill -l "$_asked"))); fi # while the log was flushed
echo "$_status" >"$_directory/status.$_job"
if [ "$_detached" = true ]; then rm -rf "$_directory"; fi # nobody waits
exit "$_status"
