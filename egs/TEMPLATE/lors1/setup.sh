#!/usr/bin/env bash
# Usage: egs/TEMPLATE/lors1/setup.sh egs/<corpus>/lors1
#
# Write a new recipe, of which nothing but db.sh and local/data.sh needs an edit. What recipes share
# are links: relative ones inside of the checkout; from a directory elsewhere they lead to this
# checkout.
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
if [ -e "$1" ] || [ -L "$1" ]; then
    die "there is something of that name already" "where: $1" "what to do: choose another name"
fi

mkdir -p "$(dirname "$1")"
parent=$(cd -P "$(dirname "$1")" && pwd)
target=$parent/$(basename "$1")
corpus=$(basename "$parent")
# Beside the target, so that relative links are right already, and nobody sees half of a recipe.
new=$(mktemp -d "$parent/.setup.XXXXXX")
trap 'rm -rf "$new"' EXIT

link_options=(-s)
if [[ $target == "$root"/* ]]; then link_options=(-s -r); fi
cp -R "$template/skeleton/." "$new"
sed -i "1s/CORPUS/${corpus//[^A-Za-z0-9_.-]/_}/" "$new/README.md"
mkdir "$new/conf"
ln "${link_options[@]}" "$template"/{lors,path,cmd}.sh "$root/utils" "$new"
ln "${link_options[@]}" "$root"/local/*.sh "$new/local"
# Shared configurations, and those of the mini recipe for what has no shared one.
for config in "$root"/conf/* "$root"/egs/mini_covost/lors1/conf/*.yaml; do
    if [ ! -e "$new/conf/${config##*/}" ]; then ln "${link_options[@]}" "$config" "$new/conf"; fi
done
chmod 755 "$new"
mv -T "$new" "$target"

log "$target is ready; next:"
log "1. $target/db.sh: where the corpus is"
log "2. $target/local/data.sh: how it becomes data directories"
log "3. $target/run.sh"
