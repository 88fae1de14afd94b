#!/usr/bin/env bash
# Adaptation of a quantised model to speakers on synthetic speech, from nothing to a table of results
# on a laptop. All options are those of pqm.sh: ./run.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./pqm.sh "$@"
