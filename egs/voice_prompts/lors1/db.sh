#!/usr/bin/env bash
# The place of the packages on this machine, to be sourced. What is not there is downloaded. A folder
# with the packages' content (usr/share/...; / if they are installed) is used as it is.
export VOICE_PROMPTS=downloads/voice_prompts
