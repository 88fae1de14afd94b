#!/usr/bin/env bash
# The place of the corpus on this machine, to be sourced: the folder with train-clean-360.
export LIBRISPEECH=downloads/LibriSpeech
