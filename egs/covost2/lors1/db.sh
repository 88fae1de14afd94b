#!/usr/bin/env bash
# Where the corpora are on this machine, to be sourced: type your own paths here (README.md says
# what has to be in them).
export COMMON_VOICE_4=downloads/cv-corpus-4-2019-12-10
export COVOST2=downloads/covost2
