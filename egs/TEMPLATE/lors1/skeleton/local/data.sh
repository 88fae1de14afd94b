#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Write a Kaldi data directory for each language and split: OUT/<lang>/{train,dev,test}. Manifests
# need no change here; for any other corpus, replace the last commands by your own.
#
# shellcheck source-path=SCRIPTDIR/../..
set -euo pipefail

langs="de es" # languages to write
out=data      # data directories to write
strict=true   # refuse the corpus for one bad row; false: leave bad rows out
rename=""     # columns with other names: "text=sentence,speaker=client_id"
# shellcheck disable=SC2034  # lors.sh gives --nj to every data.sh
nj=2          # processes, for a preparation that needs several

. utils/parse_options.sh
no_more_arguments "$@"
. ./db.sh

read -ra langs_a <<<"$langs"
read -ra rename_a <<<"${rename//,/ }"
local/prepare_manifest.sh --manifest "${MANIFEST[@]}" --langs "${langs_a[@]}" --out "$out" \
    --strict "$strict" ${rename:+--rename "${rename_a[@]}"}
