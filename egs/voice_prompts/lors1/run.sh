#!/usr/bin/env bash
# Voice prompts with the official Whisper-base: real speech in four languages, recognition and
# translation into English.
#
#   ./run.sh
#
# db.sh has the place of the packages. All options are those of lors.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./lors.sh --model_family whisper --base_model base --langs "es fr it ru" --tasks "asr st" "$@"
