#!/usr/bin/env bash
# The paths of the corpora on this machine, to be sourced. Write your own paths here; README.md
# describes the content.
export COMMON_VOICE_4=downloads/cv-corpus-4-2019-12-10
export COVOST2=downloads/covost2
