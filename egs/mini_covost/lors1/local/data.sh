#!/usr/bin/env bash
# Usage: local/data.sh --langs "de es" --out data
#
# Synthesise the corpus with espeak-ng, in the layout of Common Voice 4 and CoVoST 2, and prepare it
# with the code for the real corpora.
#
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

langs="de es fr" # languages (Common Voice codes)
out=data        # data directories to write
nj=2            # processes
seed=0          # seed of the corpus
pool=false      # the data of the base model (local/train_base.sh) instead of those of the experts
num_train=700   # training clips of each language
num_dev=100     # dev clips of each language
num_test=160    # test clips of each language
num_pool=3000   # training clips of each language, with --pool true

. utils/parse_options.sh
no_more_arguments "$@"

corpus=downloads/domain
condition=domain
if [ "$pool" = true ]; then
    corpus=downloads/pool condition=pool num_train=$num_pool num_dev=40 num_test=10
fi
read -ra langs_a <<<"$langs"
local/make_espeak_corpus.sh --out "$corpus" --condition "$condition" \
    --langs "${langs_a[@]}" --num_train "$num_train" --num_dev "$num_dev" \
    --num_test "$num_test" --seed "$seed" --nj "$nj"
local/prepare_covost2.sh --common_voice "$corpus/cv-corpus-4-2019-12-10" \
    --covost2 "$corpus/covost2" --langs "${langs_a[@]}" --out "$out"
