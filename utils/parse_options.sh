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
# An option is a line `name=value  # what it is for` that stands at the left margin above the line
# that sources this file. The user gives it as --name value or --name=value (- and _ mean the same);
# a true/false option also as --name alone. What follows the options is left in "$@"; -- ends them.
# --help prints the comment at the top of the script and every option with the value it has.
# An unknown option, a missing value or one other than true/false ends the script with status 2.
# Values are only ever assigned, never evaluated.

# Print where the script that sources this file is, which may have changed its directory before.
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
# A line of help is `text` as it is or `name<TAB>comment` for an option.
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

# Print the number of single-character edits between two words (Levenshtein's distance).
_po_distance() {
    local a=$1 b=$2 i j cost best
    local -a row=() next=()
    for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
    for ((i = 1; i <= ${#a}; i++)); do
        next=("$i")
        for ((j = 1; j <= ${#b}; j++)); do
            cost=1
            if [ "${a:i-1:1}" = "${b:j-1:1}" ]; then cost=0; fi
            best=$((row[j - 1] + cost))
            if ((row[j] + 1 < best)); then best=$((row[j] + 1)); fi
            if ((next[j - 1] + 1 < best)); then best=$((next[j - 1] + 1)); fi
            next[j]=$best
        done
        row=("${next[@]}")
    done
    printf '%s\n' "${row[${#b}]}"
}

# Print the option that the user may have meant by $1, if any is near.
_po_nearest() {
    local name distance nearest='' smallest=$((${#1} / 3 + 2))
    for name in "${_po_names[@]}"; do
        distance=$(_po_distance "$1" "$name")
        if [[ $name == "$1"* && $distance -gt 1 ]]; then distance=1; fi
        if [ "$distance" -lt "$smallest" ]; then
            smallest=$distance
            nearest=$name
        fi
    done
    printf '%s\n' "$nearest"
}

_po_fail() {
    printf '%s: error: %s\n  what to do: %s --help lists every option\n' "${0##*/}" "$1" "$0" >&2
    exit 2
}

_po_is_option() { [[ $1 =~ ^[a-z][a-z0-9_]*$ && ${_po_values[$1]+set} ]]; }

_po_is_boolean() { [[ ${_po_values[$1]} == true || ${_po_values[$1]} == false ]]; }

# Whether an argument is itself --name or --name=value of an option, so that it is no other's value.
_po_looks_like_option() {
    [[ $1 =~ ^--([a-z0-9_-]+)(=.*)?$ ]] && _po_is_option "${BASH_REMATCH[1]//-/_}"
}

# Read the options that the arguments begin with; _po_used becomes the number of arguments read.
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

# The caller's variables are read and set here, outside of any function, whose own variables could
# have the same names.
_po_names=()
_po_help=()
declare -A _po_values=()
_po_script=$(_po_find_script "${BASH_SOURCE[1]}") || exit 1
_po_read_script "$_po_script"
for _po_name in "${_po_names[@]}"; do
    _po_values[$_po_name]=${!_po_name-}
done
_po_parse "$@"
shift "$_po_used"
for _po_name in "${_po_names[@]}"; do
    printf -v "$_po_name" '%s' "${_po_values[$_po_name]}"
done
unset _po_script _po_names _po_help _po_values _po_used _po_name
