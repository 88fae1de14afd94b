#!/usr/bin/env bash
# Where the corpus is on this machine, to be sourced: type your own path here, the folder of any
# release (README.md says what has to be in it).
export COMMON_VOICE=downloads/cv-corpus-17.0-2024-03-15
