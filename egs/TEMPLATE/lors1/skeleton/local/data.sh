#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Write a Kaldi data directory for each language and split: OUT/<lang>/{train,dev,test}. A manifest
# is prepared as it is; for anything else, put your own commands in place of the last ones.
#
# shellcheck source-path=SCRIPTDIR/../..
set -euo pipefail

langs="de es" # languages to write
out=data      # data directories to write
strict=true   # whether one bad row refuses the corpus; false leaves bad rows out
nj=2          # processes, for a preparation that needs them
seed=0        # seed, for a preparation that draws something
pool=false    # the data of a base model that is to be trained (--train_base true)

. utils/log.sh
. utils/parse_options.sh
if [ $# -gt 0 ]; then die -2 "unexpected argument: $1" "what to do: --help lists every option"; fi
if [ "$pool" = true ]; then
    die -2 "this corpus has no data for a base model" "where: local/data.sh" \
        "what to do: name a base model in db.sh, or prepare the data here"
fi
. ./db.sh

read -ra langs_a <<<"$langs"
log "$MANIFEST, with $nj processes and seed $seed where that matters"
local/prepare_manifest.sh --manifest "$MANIFEST" --langs "${langs_a[@]}" --out "$out" \
    --strict "$strict"
