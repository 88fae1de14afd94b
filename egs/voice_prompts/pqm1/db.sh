#!/usr/bin/env bash
# The place of the packages on this machine, to be sourced. Missing packages are downloaded there. A
# folder with the content of the packages (usr/share/...; / if they are installed) is used as it is.
export VOICE_PROMPTS=../lors1/downloads/voice_prompts
