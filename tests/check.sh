#!/usr/bin/env bash
# Usage: tests/check.sh [CHECK ...]
#
# Check the sources: ruff (mistakes), format (layout), shellcheck and types (mypy, lors only); by
# default all of them. tests/run.sh and the hooks of .pre-commit-config.yaml call it.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
. utils/log.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi

python=$(utils/install.sh --test_tools true)
PATH=$(dirname "$python"):$PATH

check_shell_scripts() {
    local -a scripts
    mapfile -t scripts < <(
        find . \( -name .venv -o -name '.test_packages*' -o -name .git -o -name downloads -o -name dump -o -name exp \) -prune -o \
            -type f \( -name '*.sh' -o -path ./.ci/run -o -path ./utils/status \) -print
    )
    # SC1091: shared scripts source the path.sh of the recipe that calls them.
    shellcheck --external-sources --exclude SC1091 "${scripts[@]}"
}

if [ $# -eq 0 ]; then set -- ruff format shellcheck types; fi
for check; do
    case $check in
        ruff) ruff check --quiet --output-format concise . || die "ruff found problems" ;;
        format)
            ruff format --check --quiet . ||
                die "some files are not formatted" "what to do: ruff format ." ;;
        shellcheck) check_shell_scripts || die "shellcheck found problems" ;;
        types) "$python" -m mypy --no-error-summary || die "mypy found problems" ;;
        *) die "no such check: $check" "expected: ruff, format, shellcheck or types" ;;
    esac
done
