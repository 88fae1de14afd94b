#!/usr/bin/env bash
# Messages of shell scripts, to be sourced. A message names the script that was called, even if a
# sourced file sends the message.
#   log MESSAGE              one line on stderr: 2025-01-01T12:00:00 (lors.sh:88) MESSAGE
#   die [-STATUS] MESSAGE [DETAIL ...]
#                            an error on stderr, one line for each detail, and exit 1 or STATUS

log() {
    printf '%(%Y-%m-%dT%H:%M:%S)T (%s:%s) %s\n' \
        -1 "${BASH_SOURCE[-1]##*/}" "${BASH_LINENO[-2]}" "$*" >&2
}

die() {
    local status=1
    if [[ $1 =~ ^-([0-9]+)$ ]]; then
        status=${BASH_REMATCH[1]}
        shift
    fi
    printf '%s: error: %s\n' "${BASH_SOURCE[-1]##*/}" "$1" >&2
    shift
    if [ $# -gt 0 ]; then
        printf '  %s\n' "$@" >&2
    fi
    exit "$status"
}
