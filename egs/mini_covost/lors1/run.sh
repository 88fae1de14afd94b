#!/usr/bin/env bash
# The mini recipe: synthetic speech in three languages, from nothing to a table of results on a
# laptop. All options are those of lors.sh: ./run.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./lors.sh "$@"
