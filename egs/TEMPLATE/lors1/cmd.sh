#!/usr/bin/env bash
# Where jobs run, to be sourced: one line moves a recipe from this machine to a cluster.
# shellcheck disable=SC2034 # used by the script that sources this file
cmd_backend=${LORS_CMD_BACKEND:-local} # local or slurm

# Each command is a job wrapper with options, called as WRAPPER [options] [JOB=1:N] LOGFILE COMMAND.
# Recipes add --gpu, --num_nodes, --num_threads, --max_jobs_run, and --mem for several GPUs.
case $cmd_backend in
    local) # utils/run.py: processes on this machine
        train_cmd=(utils/run.py) # training, on GPUs with --ngpu
        train_mem=""             # GB of memory of a training process; empty: no limit
        infer_cmd=(utils/run.py) # inference and tuning, on GPUs with --device cuda
        cpu_cmd=(utils/run.py)   # preparing data, merging and packing
        driver_cmd=()            # ./run.sh itself, with --submit; empty: not possible
        job_cores=""             # cores of a job; empty: 1 in an array, --nj in a single job
        ;;
    slurm) # utils/slurm.py: Slurm jobs, here with time and memory; partitions: conf/slurm.conf
        # A training on several GPUs has a process for each: train_mem and job_cores count for one.
        train_mem=24
        train_cmd=(utils/slurm.py --mem "${train_mem}G" --time 12:00:00 --requeue 20)
        infer_cmd=(utils/slurm.py --mem 16G --time 12:00:00 --requeue 20)
        cpu_cmd=(utils/slurm.py --mem 16G --time 12:00:00 --requeue 20)
        # Give the driver the longest time limit of the cluster, e.g. --time 7-00:00:00: at its
        # limit, and when it is preempted, it cancels its jobs and submits them again later.
        driver_cmd=(utils/slurm.py --mem 4G --requeue 100)
        job_cores=4
        ;;
    *) die -2 "unknown backend: $cmd_backend" "where: cmd.sh" "expected: local or slurm" ;;
esac
