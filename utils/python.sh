#!/usr/bin/env bash
# Usage: utils/python.sh [arguments of Python]
#  e.g.: utils/python.sh -m lors.bin.merge --list_methods
#
# Run the Python interpreter of the recipes (utils/install.sh), with the lors package in any
# directory.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
root=$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=$("$root/utils/install.sh")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$@"
