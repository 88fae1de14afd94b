#!/usr/bin/env bash
# The path of the corpus on this machine, to be sourced: the folder of any release. Write your own
# path here; README.md describes the content.
export COMMON_VOICE=downloads/cv-corpus-17.0-2024-03-15
