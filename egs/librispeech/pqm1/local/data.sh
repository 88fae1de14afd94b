#!/usr/bin/env bash
# Usage: local/data.sh --langs en --out data
#
# Data directories of LibriSpeech. Give options of this script to ./run.sh like this:
# ./run.sh --data_opts "--subsets train-clean-100".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. utils/log.sh
. ./db.sh

langs=en        # LibriSpeech is English
out=data        # data directories to write
# shellcheck disable=SC2034  # pqm.sh gives --nj to every data.sh
nj=1            # not used: one process is enough
subsets=train-clean-360 # folders of the corpus, of which all speakers are taken
librispeech=$LIBRISPEECH # folder of the corpus

. utils/parse_options.sh
no_more_arguments "$@"

if [ "$langs" != en ]; then die -2 "LibriSpeech is English" "where: --langs $langs"; fi
read -ra subsets_a <<<"$subsets"
local/prepare_librispeech.sh --corpus "$librispeech" --subsets "${subsets_a[@]}" --out "$out"
