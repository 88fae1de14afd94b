#!/usr/bin/env bash
# Usage: local/data.sh --langs "es fr it ru" --out data
#
# Get the packages of the voice prompts and prepare them; Russian has a second speaker, who reads
# sentences aloud that have no translations. Give options of this script to ./run.sh like this:
# ./run.sh --data_opts "--second_russian false".
#
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
. ./db.sh

langs="es fr it ru" # languages: en es fr it ru
out=data        # data directories to write
# shellcheck disable=SC2034  # pqm.sh gives --nj to every data.sh
nj=1            # not used: one process is enough
second_russian=true # add the Russian sentences read aloud
voice_prompts=$VOICE_PROMPTS # folder of the packages

. utils/parse_options.sh
no_more_arguments "$@"

read -ra langs_a <<<"$langs"
prepare=(local/prepare_voice_prompts.sh --folder "$voice_prompts")
if [[ $second_russian != true || " $langs " != *" ru "* ]]; then
    "${prepare[@]}" --langs "${langs_a[@]}" --out "$out"
    exit
fi
"${prepare[@]}" --langs "${langs_a[@]}" --out "$out/prompts"
"${prepare[@]}" --langs ru --read_russian --out "$out/read"
for lang in "${langs_a[@]}"; do
    for split in train dev test; do
        sources=("$out/prompts/$lang/$split")
        if [ "$lang" = ru ]; then sources+=("$out/read/ru/$split"); fi
        utils/combine_data.sh "$out/$lang/$split" "${sources[@]}"
    done
done
