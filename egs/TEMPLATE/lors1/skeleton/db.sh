#!/usr/bin/env bash
# The corpus on this machine, its languages and the base model, to be sourced.
export MANIFEST=downloads/manifest.tsv # table or folder for local/data.sh
export LANGS="de es"                   # its languages
export MODEL_FAMILY=whisper            # whisper or espnet_s2t
export BASE_MODEL=small                # a model directory, a file or an official name of Whisper
