"""Strict configuration: YAML files and name=value options checked against type annotations.

An unknown key, a missing key, a value of the wrong type and a value out of range are errors. All
errors of one file are reported together.
"""

from lors.config.files import load_config, parse_assignments, parse_yaml, read_yaml
from lors.config.ranges import (
    FLOAT32,
    FRACTION,
    LARGEST_COUNT,
    MOST_PROCESSES,
    SEED,
    Range,
    check_number,
    count,
    finite_number,
    fraction,
    option_number,
    process_count,
)
from lors.config.schema import REQUIRED, Key, build, check, describe, keys_of

__all__ = [
    "FLOAT32",
    "FRACTION",
    "LARGEST_COUNT",
    "MOST_PROCESSES",
    "REQUIRED",
    "SEED",
    "Key",
    "Range",
    "build",
    "check",
    "check_number",
    "count",
    "describe",
    "finite_number",
    "fraction",
    "keys_of",
    "load_config",
    "option_number",
    "parse_assignments",
    "parse_yaml",
    "process_count",
    "read_yaml",
]
