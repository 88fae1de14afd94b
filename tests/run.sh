#!/usr/bin/env bash
# Usage: tests/run.sh [pytest arguments]
#  e.g.: tests/run.sh                       all tests except those that need a GPU
#        tests/run.sh -m "not slow and not gpu"
#                                           without the longest ones; 20 to 30 minutes
#        tests/run.sh tests/unit -k merge   some of the unit tests
#        tests/run.sh -m gpu                the tests that need a GPU
#        tests/run.sh -n 0 --pdb tests/unit one after the other, for a debugger
#        tests/run.sh tests/integration/test_kills.py --full
#                                           30 kills of the mini recipe instead of a few
# An -m of yours takes the place of the default, -m "not gpu".
#
# Install what is missing (utils/install.sh), check the sources (tests/check.sh), and run the tests with
# pytest, whose closing line is the last line of output.
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
. utils/log.sh

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
    sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"
    exit 0
fi

LORS_PYTHON=$(utils/install.sh --test_tools true --system_packages "espeak-ng")
PATH=$(dirname "$LORS_PYTHON"):$PATH
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # for an environment that the lors package is not in
# Waiting threads sleep, as in the jobs of the recipes, because several tests share the processors.
OMP_WAIT_POLICY=${OMP_WAIT_POLICY-PASSIVE} GOMP_SPINCOUNT=${GOMP_SPINCOUNT-0}
export LORS_PYTHON PATH PYTHONPATH OMP_WAIT_POLICY GOMP_SPINCOUNT
unset PYTHONDONTWRITEBYTECODE # as in path.sh

# Slurm for the tests of utils/slurm.py, which start a cluster of their own; no service is started.
if ! PATH=$PATH:/usr/sbin type -P slurmctld slurmd munged sbatch >/dev/null; then
    utils/install.sh --system_packages "slurmctld slurmd slurm-client munge" >/dev/null ||
        log "Slurm cannot be installed; its tests will be skipped"
fi

# NIST's scoring tools, an oracle for the tests of significance.
if ! PATH=$PATH:/usr/lib/sctk/bin type -P sclite sc_stats >/dev/null; then
    utils/install.sh --system_packages sctk >/dev/null ||
        log "sctk cannot be installed; its tests will be skipped"
fi

# A browser for the tests of the page and of the site; with its libraries 300 MB.
browsers=(chromium chromium-browser google-chrome chrome chromium-headless-shell)
if [ -z "$(type -P "${browsers[@]}")" ]; then
    utils/install.sh --system_packages chromium-headless-shell >/dev/null ||
        log "Chromium cannot be installed; its tests will be skipped"
fi

# transformers and other packages that load exported models, and mkdocs; without them a few tests are
# skipped.
packages=$root/.test_packages
if ! cmp -s requirements-test.lock "$packages/requirements-test.lock"; then
    log "installing the packages of requirements-test.lock into .test_packages"
    fresh=$(mktemp -d "$packages.XXXXXX")
    read -ra pip_args <<<"${LORS_PIP_ARGS:-}"
    if "$LORS_PYTHON" -m pip --disable-pip-version-check --no-input --quiet install --no-deps \
        --no-compile --target "$fresh" "${pip_args[@]}" -r requirements-test.lock >&2; then
        cp requirements-test.lock "$fresh"
        rm -rf "$packages"
        mv "$fresh" "$packages"
    else
        rm -rf "$fresh"
        log "they cannot be installed; the tests of exported models and of the site will be skipped"
    fi
fi

log "checking the sources with ruff, shellcheck and mypy"
tests/check.sh
log "set-up and checks of all shell scripts and Python files: $SECONDS s"

export LORS_TESTS_BEGAN=$((EPOCHSECONDS - SECONDS)) # tests/conftest.py reports the total time
# Two files of tests at a time: many tests wait for processes, and most use one core. More would slow
# down a small machine so much that tests time out.
exec "$LORS_PYTHON" -m pytest -m "not gpu" -n 2 --dist loadfile "$@"
