#!/usr/bin/env bash
# Where jobs run, to be sourced. Each is a job wrapper with options, called as
#   WRAPPER [options] [JOB=1:N] LOGFILE COMMAND ...
# utils/run.py runs them on this machine.
export train_cmd="utils/run.py" # training, on GPUs with --ngpu
export infer_cmd="utils/run.py" # inference and tuning
