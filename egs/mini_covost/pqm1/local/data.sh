#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Synthesise the corpus with espeak-ng, in the layout of Common Voice 4 and CoVoST 2, and prepare it
# with the code for the real corpora: speakers with unusual voices, two of them with many clips.
#
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

langs="de es fr" # languages (Common Voice codes)
out=data        # data directories to write
nj=2            # processes
seed=0          # seed of the corpus
num_train=480   # clips of each language, by twelve speakers
num_dev=40      # clips by four other speakers
num_test=200    # clips by two other speakers: these are tested

. utils/parse_options.sh
no_more_arguments "$@"

corpus=downloads/personal
read -ra langs_a <<<"$langs"
local/make_espeak_corpus.sh --out "$corpus" --condition personal \
    --langs "${langs_a[@]}" --num_train "$num_train" --num_dev "$num_dev" \
    --num_test "$num_test" --seed "$seed" --nj "$nj"
local/prepare_covost2.sh --common_voice "$corpus/cv-corpus-4-2019-12-10" \
    --covost2 "$corpus/covost2" --langs "${langs_a[@]}" --out "$out"
