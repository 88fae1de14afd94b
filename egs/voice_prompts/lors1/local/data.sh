#!/usr/bin/env bash
# Usage: local/data.sh --langs "es fr it ru" --out data
#
# Get the packages of the voice prompts and prepare them. Give options of this script to ./run.sh
# like this: ./run.sh --data_opts "--max_seconds 30".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs="es fr it ru" # languages: en es fr it ru
out=data        # data directories to write
# shellcheck disable=SC2034  # lors.sh gives --nj to every data.sh
nj=1            # not used: one process is enough
read_russian=false # prepare the Russian sentences read aloud instead of the prompts
min_seconds=""  # shortest recording; "": 0.4
max_seconds=""  # longest recording; "": 10, of the Russian sentences 30
voice_prompts=$VOICE_PROMPTS # folder of the packages
archive=""      # address of a mirror of Debian's archive, for systems without apt-get
packages=""     # list of the packages; "": the pinned ones, lors/data/voice_prompts/packages.yaml

. utils/parse_options.sh
no_more_arguments "$@"

read -ra langs_a <<<"$langs"
options=(--folder "$voice_prompts" --langs "${langs_a[@]}" --out "$out")
if [ -n "$min_seconds" ]; then options+=(--min_seconds "$min_seconds"); fi
if [ -n "$max_seconds" ]; then options+=(--max_seconds "$max_seconds"); fi
if [ -n "$archive" ]; then options+=(--archive "$archive"); fi
if [ -n "$packages" ]; then options+=(--packages "$packages"); fi
if [ "$read_russian" = true ]; then options+=(--read_russian); fi
local/prepare_voice_prompts.sh "${options[@]}"
