#!/usr/bin/env bash
# Run one task of utils/slurm.py as its Slurm job: sbatch --array=... utils/slurm_task.sh DIRECTORY
#
# In bash, because Python takes longer to start than a short task, on every node.
#
# DIRECTORY/task says what to run, as utils/slurm.py has written it; the number is Slurm's, and Slurm
# has made the log our stdout. When the task has ended, its exit status appears as
# DIRECTORY/status.NUMBER, atomically; utils/slurm.py waits for these files.
#
# Signals: TERM (scancel, preemption, a time limit) ends the command and leaves no status, because
# Slurm may have put the job back into the queue already. USR1 is the warning before the time limit:
# the command is ended and the job goes back into the queue, where the call allows it (--requeue);
# so does a command that ends with status 85, "go on later". What was requeued starts again with the
# same command, so the command has to find what it has done.
set -u

directory=$1
number=$SLURM_ARRAY_TASK_ID
# The array's id and the index: the plain id of an array's last task means all of it.
job=${SLURM_ARRAY_JOB_ID}_$number
go_on_later=85
grace=60 # seconds between TERM and KILL, if Slurm waits as long
settle=3 # seconds until a command counts as killed by itself, not together with its job

asked='' # what Slurm wants of us, by a signal
pid=''   # of the command, and of its process group
take() {
    if [ "$1" != USR1 ] || [ -z "$asked" ]; then asked=$1; fi
    if [ -n "$pid" ]; then kill -TERM -- "-$pid" 2>/dev/null; fi
}
trap 'take HUP' HUP
trap 'take INT' INT
trap 'take TERM' TERM
trap 'take USR1' USR1

say() { printf '# %s\n' "$@"; }
now() { printf -v date '%(%Y-%m-%dT%H:%M:%S)T' -1; }

# Wait until a command succeeds, for some seconds; false if it does not.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -gt "$end" ]; then return 1; fi
        sleep 0.1
    done
}
is_asked() { [ -n "$asked" ]; }
# shellcheck disable=SC2329 # it is called by within
is_over() { ! kill -0 -- "-$pid" 2>/dev/null; }

# --- what to do ---------------------------------------------------------------------------------

# Four settings, then texts in pieces: w begins a text, j goes on after the task's number.
mapfile -d '' -t told <"$directory/task" || exit 1
num_threads=${told[0]} gpu=${told[1]} requeue=${told[2]} detached=${told[3]}
texts=()
for piece in "${told[@]:4}"; do
    if [[ $piece == w* ]]; then texts+=("${piece#w}"); else texts[-1]+=$number${piece#j}; fi
done

export OMP_NUM_THREADS=$num_threads MKL_NUM_THREADS=$num_threads
if [ "$gpu" = 0 ]; then export CUDA_VISIBLE_DEVICES=; fi # Slurm leaves all visible without

# --- the command, in a process group of its own -------------------------------------------------

now
say "${texts[0]}" "Running on $(uname -n), process $$, Slurm job $job" "Started at $date"
echo "#"
set -m
exec -- "${texts[@]:1}" </dev/null &
pid=$!
set +m
if is_asked; then take "$asked"; fi # it has come too early to be passed on
wait "$pid" 2>/dev/null # which is where bash says that it was killed
status=$? # of the command, or of a signal that came in between
if is_asked; then
    if [ "$asked" = USR1 ]; then say 'The time is nearly up: ending the command'; fi
    within "$grace" is_over
fi
kill -KILL -- "-$pid" 2>/dev/null # also what an ended command has left running
if is_asked; then
    wait "$pid" 2>/dev/null
    status=$?
fi
if [ "$status" -gt 128 ]; then
    killed=$(kill -l "$status")
    if [ "$killed" = KILL ]; then killed+=' (out of memory?)'; fi
    say "Ended by SIG$killed"
    # Slurm signals the processes of a job in turn, and the command may have been the first.
    within "$settle" is_asked
fi
say "Accounting: time=$SECONDS threads=$num_threads"

# --- how it ended -------------------------------------------------------------------------------

if is_asked && [ "$asked" != USR1 ]; then
    now
    say "Ended by Slurm (SIG$asked) at $date"
    exit $((128 + $(kill -l "$asked")))
fi
if is_asked; then status=$go_on_later; fi # whatever the command said when it was told to stop
if [ "$status" = "$go_on_later" ] && [ "$requeue" -gt 0 ]; then
    printf x >>"$directory/requeued.$number"
    times=$(<"$directory/requeued.$number")
    times=${#times}
    if [ "$times" -le "$requeue" ]; then
        say "Back into the queue, for the $times. time of $requeue"
        for ((try = 0; try < 30; try++)); do # while the controller is away, say
            if scontrol requeue "$job"; then
                within 60 is_asked # Slurm ends this job
                exit 0
            fi
            sleep 2
        done
        exit 1
    fi
    say "Not back into the queue again: --requeue $requeue"
fi
now
say "Finished at $date with status $status"
# Whoever sees the status, on another machine, is to see the log too.
sync /dev/stdout 2>/dev/null
echo "$status" >"$directory/.status.$number.$$"
mv -f "$directory/.status.$number.$$" "$directory/status.$number"
if [ "$detached" = true ]; then rm -rf "$directory"; fi # nobody waits
exit "$status"
