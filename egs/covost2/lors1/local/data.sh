#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Prepare the official splits of CoVoST 2, which is made for Common Voice 4. Give options of this
# script to ./run.sh like this: ./run.sh --data_opts "--min_join 0.9".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs=""        # languages of the speech (Common Voice codes); en needs another --target
out=data        # data directories to write
# shellcheck disable=SC2034  # lors.sh gives --nj to every data.sh
nj=1            # not used: one process is enough
target=en       # language of the translations
min_join=0.95   # smallest share of a split's rows that must be in validated.tsv
max_bad_audio=0.1 # largest share of a split's clips without audio
common_voice=$COMMON_VOICE_4 # folder with <lang>/validated.tsv and <lang>/clips
covost2=$COVOST2 # folder with covost_v2.<lang>_<target>.tsv

. utils/parse_options.sh
no_more_arguments "$@"

read -ra langs_a <<<"$langs"
local/prepare_covost2.sh --common_voice "$common_voice" --covost2 "$covost2" --target "$target" \
    --langs "${langs_a[@]}" --out "$out" --min_join "$min_join" --max_bad_audio "$max_bad_audio"
