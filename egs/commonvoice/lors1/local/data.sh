#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Common Voice's own splits, of any release. Other options come by
# ./run.sh --data_opts "--train_from validated".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs=""        # languages (Common Voice codes)
out=data        # data directories to write
# shellcheck disable=SC2034  # every recipe's data.sh is given --nj; one process is enough here
nj=1            # not used
pool=false      # data of another condition for a base model: there is none
train_from=train # train.tsv, or validated: all of validated.tsv that is in neither dev nor test
max_bad_audio=0.1 # largest share of a split's clips without audio
common_voice=$COMMON_VOICE # folder of the release

. utils/log.sh
. utils/parse_options.sh
if [ $# -gt 0 ]; then die -2 "unexpected argument: $1" "what to do: --help lists every option"; fi
if [ "$pool" = true ]; then
    die -2 "this corpus has no data for a base model of one's own" "where: --train_base" \
        "what to do: start from a Whisper with --base_model"
fi

read -ra langs_a <<<"$langs"
local/prepare_common_voice.sh --common_voice "$common_voice" --train_from "$train_from" \
    --langs "${langs_a[@]}" --out "$out" --max_bad_audio "$max_bad_audio"
