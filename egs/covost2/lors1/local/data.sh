#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# The official splits of CoVoST 2, which is made for Common Voice 4. Other options come by
# ./run.sh --data_opts "--min_join 0.9".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs=""        # languages that are spoken (Common Voice codes); en with a --target of its own
out=data        # data directories to write
# shellcheck disable=SC2034  # every recipe's data.sh is given --nj; one process is enough here
nj=1            # not used
pool=false      # data of another condition for a base model: there is none
target=en       # language translated into
min_join=0.95   # least share of a split's rows that must be in validated.tsv
max_bad_audio=0.1 # largest share of a split's clips without audio
common_voice=$COMMON_VOICE_4 # folder with <lang>/validated.tsv and <lang>/clips
covost2=$COVOST2 # folder with covost_v2.<lang>_<target>.tsv

. utils/log.sh
. utils/parse_options.sh
if [ $# -gt 0 ]; then die -2 "unexpected argument: $1" "what to do: --help lists every option"; fi
if [ "$pool" = true ]; then
    die -2 "this corpus has no data for a base model of one's own" "where: --train_base" \
        "what to do: start from a Whisper with --base_model"
fi

read -ra langs_a <<<"$langs"
local/prepare_covost2.sh --common_voice "$common_voice" --covost2 "$covost2" --target "$target" \
    --langs "${langs_a[@]}" --out "$out" --min_join "$min_join" --max_bad_audio "$max_bad_audio"
