#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Prepare Common Voice's own splits, of any release. Give options of this script to ./run.sh like
# this: ./run.sh --data_opts "--train_from validated".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs=""        # languages (Common Voice codes)
out=data        # data directories to write
# shellcheck disable=SC2034  # lors.sh gives --nj to every data.sh
nj=1            # not used: one process is enough
train_from=train # train (train.tsv) or validated (validated.tsv without the clips of dev and test)
max_bad_audio=0.1 # largest share of a split's clips without audio
common_voice=$COMMON_VOICE # folder of the release

. utils/parse_options.sh
no_more_arguments "$@"

read -ra langs_a <<<"$langs"
local/prepare_common_voice.sh --common_voice "$common_voice" --train_from "$train_from" \
    --langs "${langs_a[@]}" --out "$out" --max_bad_audio "$max_bad_audio"
