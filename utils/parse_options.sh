#!/usr/bin/env bash
# Command-line options of shell scripts, to be sourced after the block of options:
#
#   # Usage: ./example.sh [options]
#   ## Where to start          (a heading in the help text)
#   stage=1                    # first stage to run
#   langs="de es"              # languages, as one word
#                              # (a comment may go on like this)
#   dry_run=false              # only say what would be done
#   . utils/parse_options.sh
#
# An option is a line `name=value  # what it is for` at the left margin above the line that sources
# this file. The user gives it as --name value or --name=value (- and _ mean the same), a true/false
# option also as --name alone. Arguments after the options stay in "$@"; -- ends the options. A
# script that takes no arguments calls: no_more_arguments "$@"
# --help prints the comment at the top of the script and every option with its value so far.
# An unknown option, a missing value or a wrong true/false value ends the script with status 2.
# Values are only assigned, never evaluated. Afterwards the array `options` has name=value of each.

# Print the path of the script that sources this file; it may have changed its directory before.
_po_find_script() {
    local place
    for place in "$1" "${OLDPWD:-.}/$1" "${1##*/}"; do
        if [ -r "$place" ]; then
            printf '%s\n' "$place"
            return
        fi
    done
    printf 'parse_options.sh: error: cannot read the options of %s\n' "$1" >&2
    return 1
}

# Fill _po_names with the options of script $1 and _po_help with the lines of its help text.
# A line of help is plain text, or `name<TAB>comment` for an option.
_po_read_script() {
    local line top=true number=0
    local option='^([a-z][a-z0-9_]*)=([^(].*)?[[:space:]]#[[:space:]]+(.*)$' # arrays are none
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        if [[ $line =~ ^[[:space:]]*(\.|source)[[:space:]].*parse_options\.sh ]]; then
            return 0
        elif [[ $number == 1 && $line == '#!'* ]]; then
            continue
        elif [[ $line =~ $option ]]; then
            top=false
            _po_names+=("${BASH_REMATCH[1]}")
            _po_help+=("${BASH_REMATCH[1]}"$'\t'"${BASH_REMATCH[3]}")
        elif [[ $top == true && $line =~ ^#[[:space:]]?(.*)$ ]]; then
            [[ $line == '# shellcheck'* ]] || _po_help+=("${BASH_REMATCH[1]}")
        elif [[ $line =~ ^'##'[[:space:]]+(.*)$ ]]; then
            if [[ ${#_po_help[@]} != 0 && -n ${_po_help[-1]} ]]; then _po_help+=(''); fi
            _po_help+=("${BASH_REMATCH[1]}")
        elif [[ $top == false && $line =~ ^[[:space:]]+#[[:space:]]?(.*)$ ]]; then
            _po_help+=($'\t'"${BASH_REMATCH[1]}")
        else
            top=false
        fi
    done <"$1"
}

_po_print_help() {
    local line name width=0
    for name in "${_po_names[@]}"; do
        if [ ${#name} -gt "$width" ]; then width=${#name}; fi
    done
    for line in "${_po_help[@]}"; do
        name=${line%%$'\t'*}
        if [ "$line" = "$name" ]; then
            printf '%s\n' "$line"
        elif [ -n "$name" ]; then
            printf '  --%-*s  %s [%s]\n' "$width" "$name" "${line#*$'\t'}" "${_po_values[$name]}"
        else
            printf '    %*s  %s\n' "$width" '' "${line#*$'\t'}"
        fi
    done
}

# Print the option that looks most like $1; nothing if none is near or there is no python3.
_po_nearest() {
    python3 -Ic 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1))' \
        "$1" "${_po_names[@]}" 2>/dev/null || true
}

_po_fail() {
    printf '%s: error: %s\n  what to do: %s --help lists every option\n' "${0##*/}" "$1" "$0" >&2
    exit 2
}

# End the script if there are arguments.
no_more_arguments() {
    if [ $# -gt 0 ]; then _po_fail "unexpected argument: $1"; fi
}

_po_is_option() { [[ $1 =~ ^[a-z][a-z0-9_]*$ && ${_po_values[$1]+set} ]]; }

# By the default: a text option may be given the value true.
_po_is_boolean() { [[ ${_po_defaults[$1]} == true || ${_po_defaults[$1]} == false ]]; }

# Whether $1 is --name or --name=value of an option, and so not the value of another option.
_po_looks_like_option() {
    [[ $1 =~ ^--([a-z0-9_-]+)(=.*)?$ ]] && _po_is_option "${BASH_REMATCH[1]//-/_}"
}

# Read the options at the beginning of the arguments; set _po_used to the number of arguments read.
_po_parse() {
    local word name value nearest total=$#
    while [ $# -gt 0 ]; do
        word=$1
        case $word in
            --) shift && break ;;
            -h | --help) _po_print_help && exit 0 ;;
            --?*) ;;
            -?*) _po_fail "unknown option $word: options begin with --" ;;
            *) break ;;
        esac
        shift
        name=${word%%=*}
        name=${name#--}
        name=${name//-/_}
        if ! _po_is_option "$name"; then
            nearest=$(_po_nearest "$name")
            _po_fail "unknown option ${word%%=*}${nearest:+ (did you mean --$nearest?)}"
        fi
        if [[ $word == *=* ]]; then
            value=${word#*=}
        elif _po_is_boolean "$name" && [[ $# == 0 || $1 == --* ]]; then
            value=true
        elif [ $# -eq 0 ] || _po_looks_like_option "$1"; then
            _po_fail "--$name needs a value"
        else
            value=$1
            shift
        fi
        if _po_is_boolean "$name" && [[ $value != true && $value != false ]]; then
            _po_fail "--$name: expected true or false, got '$value'"
        fi
        _po_values[$name]=$value
    done
    _po_used=$((total - $#))
}

# Outside of functions, because a local variable could have the name of a variable of the script.
_po_names=()
_po_help=()
declare -A _po_values=() _po_defaults=()
_po_script=$(_po_find_script "${BASH_SOURCE[1]}") || exit 1
_po_read_script "$_po_script"
for _po_name in "${_po_names[@]}"; do
    _po_values[$_po_name]=${!_po_name-}
    _po_defaults[$_po_name]=${!_po_name-}
done
_po_parse "$@"
shift "$_po_used"
# shellcheck disable=SC2034 # for the script that sources this file
options=()
for _po_name in "${_po_names[@]}"; do
    printf -v "$_po_name" '%s' "${_po_values[$_po_name]}"
    options+=("$_po_name=${_po_values[$_po_name]}")
done
unset _po_script _po_names _po_help _po_values _po_defaults _po_used _po_name
