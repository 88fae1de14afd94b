#!/usr/bin/env bash
# Usage: egs/TEMPLATE/lors1/setup.sh egs/<corpus>/{lors1,pqm1} [--from MANIFEST ...]
#  e.g.: egs/TEMPLATE/lors1/setup.sh egs/my_corpus/lors1
#        egs/TEMPLATE/lors1/setup.sh egs/my_corpus/pqm1
#        egs/TEMPLATE/lors1/setup.sh egs/my_corpus/lors1 --from dump/raw/{train,dev,test}_de
#        egs/TEMPLATE/lors1/setup.sh egs/my_corpus/lors1 --from de/train=tr de/dev=cv de/test=tt
#
# Write a new recipe: pqm1 (pqm2 ...) adapts a quantised model to speakers; any other name merges, but
# for s3net1 there is no template. Its db.sh names the corpus: with --from, data directories of Kaldi or
# ESPnet, cut manifests of lhotse or tables (local/prepare_manifest.sh --help); else it needs an edit.
# The files that recipes share are links: relative ones inside the checkout, absolute ones to this
# checkout elsewhere.
# shellcheck source-path=SCRIPTDIR/../../..
set -euo pipefail

template=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -P "$template/../../.." && pwd)
. "$root/utils/log.sh"

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi
if [ $# -lt 1 ] || [[ $1 == -* ]]; then
    die -2 "expected the directory of the new recipe" "e.g.: $0 egs/my_corpus/lors1"
fi
if [ $# -gt 1 ] && { [ "$2" != --from ] || [ $# -eq 2 ]; }; then
    die -2 "expected --from MANIFEST ... after the directory" "got: ${*:2}" \
        "e.g.: $0 egs/my_corpus/lors1 --from dump/raw/train_de dump/raw/dev_de dump/raw/test_de"
fi
# Line breaks and other encodings: Kaldi's files and the records could not hold the path.
if [[ -z $1 || /$1 == */. || /$1 == */.. || $1 == *[[:cntrl:]]* ]] ||
    ! iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 <<<"$1"; then
    die -2 "this cannot be the directory of a recipe: ${1@Q}" "e.g.: $0 egs/my_corpus/lors1"
fi
if [[ $(basename "$1") == s3net* ]]; then
    die -2 "there is no template of a recipe for sub-networks" "where: $1" \
        "expected: a name such as lors1 (merging) or pqm1 (speakers)" \
        "what to do: choose one of these, or begin with a copy of egs/voice_prompts/s3net1"
fi
if [ -e "$1" ] || [ -L "$1" ]; then
    die "this path exists already" "where: $1" "what to do: choose another name"
fi

corpus_lines= # of db.sh
if [ $# -gt 1 ]; then
    corpus_lines=$("$root/utils/python.sh" -m lors.bin.name_manifests "${@:3}")
fi

mkdir -p "$(dirname "$1")"
parent=$(cd -P "$(dirname "$1")" && pwd)
target=$parent/$(basename "$1")
corpus=$(basename "$parent")
# Beside the target: relative links are right, and the recipe appears only when it is complete.
new=$(mktemp -d "$parent/.setup.XXXXXX")
trap 'rm -rf "$new"' EXIT

link_options=(-s)
if [[ $target == "$root"/* ]]; then link_options=(-s -r); fi
script=lors
configs=("$root"/conf/* "$root"/egs/{covost2,mini_covost}/lors1/conf/*.yaml)
cp -R "$template/skeleton/." "$new"
if [[ $(basename "$target") == pqm[0-9]* ]]; then
    script=pqm
    configs=("$root"/conf/{slurm.conf,inference_whisper*,train_whisper_pqm*}
        "$root"/egs/mini_covost/pqm1/conf/*.yaml)
    cp "$root/egs/TEMPLATE/pqm1/skeleton/run.sh" "$new"
fi
sed -i "1s/CORPUS/${corpus//[^A-Za-z0-9_.-]/_}/" "$new/README.md"
if [ "$corpus_lines" ]; then
    { sed '/^export MANIFEST=/,$d' "$template/skeleton/db.sh"
      printf '%s\n' "$corpus_lines"
      sed '1,/^export LANGS=/d' "$template/skeleton/db.sh"; } >"$new/db.sh"
fi
mkdir "$new/conf"
ln "${link_options[@]}" "$root/egs/TEMPLATE/${script}1/$script.sh" "$template"/{path,cmd}.sh \
    "$root/utils" "$new"
ln "${link_options[@]}" "$root"/local/*.sh "$new/local"
# Shared configurations, the search of covost2 for models of real size, and those of the mini recipe
# that no other has; without those of local/train_base.sh and of its small matrices.
for config in "${configs[@]}"; do
    if [[ -e $new/conf/${config##*/} || $config == *_base.yaml || $config == */tune_full.yaml ]]; then continue; fi
    ln "${link_options[@]}" "$config" "$new/conf"
done
chmod 755 "$new"
mv -T "$new" "$target"

log "$target is ready; next:"
if [ "$corpus_lines" ]; then
    log "1. $target/db.sh: the languages and splits are right? which base model?"
else
    log "1. $target/db.sh: where the corpus is"
    log "2. $target/local/data.sh: how to make data directories of it"
fi
log "then $target/run.sh"
