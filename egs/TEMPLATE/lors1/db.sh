#!/usr/bin/env bash
# Where the corpora are on this machine, to be sourced. Copy your own paths here.
export COMMON_VOICE= # directory of cv-corpus-4-2019-12-10/<lang>/{validated.tsv,clips/}
export COVOST2=      # directory of covost_v2.<lang>_en.tsv
