#!/usr/bin/env bash
# Usage: egs/TEMPLATE/lors1/setup.sh egs/<corpus>/lors1
#
# Write a new recipe; only its db.sh and local/data.sh need an edit. The files that recipes share
# are links: relative ones inside the checkout, absolute ones to this checkout elsewhere.
# shellcheck source-path=SCRIPTDIR/../../..
set -euo pipefail

template=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -P "$template/../../.." && pwd)
. "$root/utils/log.sh"

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi
if [ $# -ne 1 ] || [[ $1 == -* ]]; then
    die -2 "expected one argument, the directory of the new recipe" "e.g.: $0 egs/my_corpus/lors1"
fi
# Line breaks and other encodings: Kaldi's files and the records could not hold the path.
if [[ -z $1 || /$1 == */. || /$1 == */.. || $1 == *[[:cntrl:]]* ]] ||
    ! iconv -f UTF-8 -t UTF-8 >/dev/null 2>&1 <<<"$1"; then
    die -2 "this cannot be the directory of a recipe: ${1@Q}" "e.g.: $0 egs/my_corpus/lors1"
fi
if [ -e "$1" ] || [ -L "$1" ]; then
    die "this path exists already" "where: $1" "what to do: choose another name"
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
cp -R "$template/skeleton/." "$new"
sed -i "1s/CORPUS/${corpus//[^A-Za-z0-9_.-]/_}/" "$new/README.md"
mkdir "$new/conf"
ln "${link_options[@]}" "$template"/{lors,path,cmd}.sh "$root/utils" "$new"
ln "${link_options[@]}" "$root"/local/*.sh "$new/local"
# Shared configurations, and those of the mini recipe that have no shared one; without those of
# local/train_base.sh, which the mini recipe alone has.
for config in "$root"/conf/* "$root"/egs/mini_covost/lors1/conf/*.yaml; do
    if [[ -e $new/conf/${config##*/} || $config == *_base.yaml ]]; then continue; fi
    ln "${link_options[@]}" "$config" "$new/conf"
done
chmod 755 "$new"
mv -T "$new" "$target"

log "$target is ready; next:"
log "1. $target/db.sh: where the corpus is"
log "2. $target/local/data.sh: how to make data directories of it"
log "3. $target/run.sh"
