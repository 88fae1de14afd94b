#!/usr/bin/env bash
# The corpus on this machine, its languages and the base model, to be sourced.
# Tables, folders or data directories for local/data.sh: (de/train=PATH de/dev=PATH ...)
export MANIFEST=downloads/manifest.tsv
export LANGS="de es"        # its languages
export MODEL_FAMILY=whisper # whisper or espnet_s2t
export BASE_MODEL=small     # a model directory, a file or an official name of Whisper
