"""Strict configuration: YAML files and name=value options checked against type annotations.

An unknown key, a missing key, a value of the wrong type and a value out of range are errors. All
errors of one file are reported together.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from lors.errors import LorsError, UsageError, near_matches

T = TypeVar("T")
REQUIRED: Any = object()
"""Default of a key that has no default and must be given."""
_MISMATCH = object()


@dataclasses.dataclass(frozen=True)
class Range:
    """Limits of a number, both included, as in ``Annotated[float, Range(0, 1)]``.

    Infinite values and NaN are out of every range.
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, (int, float))
            and math.isfinite(value)
            and (self.low <= value <= self.high)
        )

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "(finite)"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


FLOAT32 = Range(-3.4028234663852886e38, 3.4028234663852886e38)
"""Range of the finite numbers of float32."""
FRACTION = Range(0, 1)
"""Range of a share of a whole."""
LARGEST_COUNT = 1_000_000
"""Largest number of clips, or of anything else that an option counts."""
MOST_PROCESSES = 1000
"""Largest number of processes that a program starts."""


def option_number(limits: Range, whole: bool = False) -> Callable[[str], float]:
    """Return a ``type`` for argparse that reads a number within `limits`.

    Args:
        limits: the range; infinite values and NaN are in none.
        whole: whether the number must be whole; it is then an ``int``.
    """

    def parse(text: str) -> float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if number not in limits:
            kind = "a whole number" if whole else "a number"
            raise argparse.ArgumentTypeError(f"expected {kind} {limits}, got {text[:40]!r}")
        return number

    return parse


finite_number = option_number(Range())
fraction = option_number(FRACTION)
count = option_number(Range(1, LARGEST_COUNT), whole=True)
process_count = option_number(Range(1, MOST_PROCESSES), whole=True)
SEED = Range(0, 2**32 - 1)
"""Range of a seed, as numpy requires."""


def check_number(value: float, limits: Range, where: str) -> None:
    """Check a number that a program or a user gives to a function.

    Raises:
        UsageError: the number is not within `limits`; infinite values and NaN never are.
    """
    if value not in limits:
        raise UsageError(
            "a number out of range", where=where, expected=f"a number {limits}", got=repr(value)
        )


@dataclasses.dataclass(frozen=True)
class Key:
    """The type annotation and the default (or ``REQUIRED``) of one key."""

    annotation: Any
    default: Any = REQUIRED


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with two changes: a repeated key is an error, and 1e-3 is a number.

    PyYAML itself keeps the last of two equal keys. It follows YAML 1.1, in which a number with an
    exponent and without a decimal point (1e-3) is a string.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+\Z"),
    list("-+.0123456789"),
)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; an empty file is an empty mapping.

    Raises:
        LorsError: the file is missing.
        UsageError: the file is not valid YAML, repeats a key, or does not hold a mapping.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise LorsError("file not found", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("not valid YAML", where=path, got=error) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            "a configuration file must hold a mapping",
            where=path,
            expected="lines of the form `name: value`",
            got=type(values).__name__,
        )
    return values


def parse_assignments(texts: list[str], option: str) -> dict[str, Any]:
    """Parse texts like ``rank=7`` into a dict of names and values; each value is read as YAML.

    Args:
        texts: the arguments of a command-line option.
        option: the name of that option, for errors.

    Raises:
        UsageError: a text has no ``=``, a name is given twice, a value is not valid YAML, or a
            space is missing after a colon in it. All are listed.
    """
    values: dict[str, Any] = {}
    problems = []
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            problems.append(f"'{text}' is not of the form name=value")
        elif name in values:
            problems.append(f"'{name}' is given twice")
        else:
            try:
                values[name] = yaml.load(value, Loader=_Loader)
            except yaml.YAMLError:
                problems.append(f"'{text}': the value is not valid YAML")
                continue
            if isinstance(values[name], dict) and any(":" in str(key) for key in values[name]):
                problems.append(f"'{text}': a space is missing after the colon")
    _raise_problems(problems, option)
    return values


def load_config(cls: type[T], path: str | os.PathLike) -> T:
    """Read a YAML file into the dataclass `cls`.

    Raises:
        LorsError: the file is missing.
        UsageError: the file does not fit `cls`; all problems are listed.
    """
    return build(cls, read_yaml(path), path)


def build(cls: type[T], values: Mapping[str, Any], where: object) -> T:
    """Make an instance of the dataclass `cls` from plain values.

    Args:
        cls: a dataclass. Its annotations define the allowed types: ``int``, ``float``, ``str``,
            ``bool``, ``Path``, ``Literal``, unions, ``list``, ``tuple``, ``dict``, other
            dataclasses, and ``Annotated[number, Range(...)]``.
        values: the values read from YAML or the command line.
        where: the file or option with these values, for errors.

    Raises:
        UsageError: unknown or missing keys, wrong types, or values out of range; all are listed.
    """
    problems: list[str] = []
    result = _dataclass(cls, values, "", problems)
    _raise_problems(problems, where)
    return result


def keys_of(cls: type) -> dict[str, Key]:
    """Return the type and the default of each field of a dataclass, under the field's name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    keys = {}
    for field in dataclasses.fields(cls):
        default = REQUIRED if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        keys[field.name] = Key(hints[field.name], default)
    return keys


def check(keys: Mapping[str, Key], values: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Check plain values against `keys`; return them converted, with the defaults filled in.

    Raises:
        UsageError: as in :func:`build`.
    """
    problems: list[str] = []
    result = _keys(keys, values, "", problems)
    _raise_problems(problems, where)
    return result


def describe(annotation: Any) -> str:
    """Return a type annotation in words, e.g. ``a number from 0 to 1``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = [str(extra) for extra in arguments[1:] if isinstance(extra, Range)]
        return " ".join([describe(arguments[0]), *limits])
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin in (list, tuple):
        return f"a list (of {describe(arguments[0])})"
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return f"{{{', '.join(f'{name}: {describe(hint)}' for name, hint in hints.items())}}}"
    if origin is dict:
        return "a mapping"
    names = {
        int: "an integer",
        float: "a number",
        str: "a text",
        bool: "true or false",
        Path: "a path",
        type(None): "null",
        Any: "anything",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(annotation, str(annotation))


def _raise_problems(problems: list[str], where: object) -> None:
    """Raise UsageError with all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(f"{count} in the configuration", where=where, got=problems)


def _dataclass(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    """Return a `cls` with these values, or None after adding the mismatches to `problems`."""
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')}: expected a mapping, got {values!r}")
        return None
    before = len(problems)
    converted = _keys(keys_of(cls), values, prefix, problems)
    return cls(**converted) if len(problems) == before else None


def _keys(
    keys: Mapping[str, Key], values: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """Return the values converted, with defaults; add each mismatch to `problems`."""
    for name in values:
        if name not in keys:
            hint = "no key is allowed here"
            if keys:
                hint = near_matches(str(name), keys) or f"known: {', '.join(keys)}"
            problems.append(f"{prefix}{name}: unknown ({hint})")
    result = {}
    for name, key in keys.items():
        if name in values:
            result[name] = _convert(values[name], key.annotation, f"{prefix}{name}", problems)
        elif key.default is REQUIRED:
            problems.append(f"{prefix}{name}: missing; expected {describe(key.annotation)}")
        else:
            result[name] = key.default
    return result


def _convert(value: Any, annotation: Any, at: str, problems: list[str]) -> Any:
    """Return `value` converted to `annotation`; add each mismatch to `problems`.

    Args:
        at: the keys that lead to the value, for `problems`.
    """
    if isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()  # a numpy number
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _convert_number(value, annotation, at, problems)
    if dataclasses.is_dataclass(annotation):
        return _dataclass(annotation, value, f"{at}.", problems)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = (
            _convert(item, arguments[0], f"{at}[{index}]", problems)
            for index, item in enumerate(value)
        )
        return origin(items)
    if origin is dict and isinstance(value, Mapping):
        return {
            _convert(key, arguments[0], f"{at} (key)", problems): _convert(
                item, arguments[1], f"{at}.{key}", problems
            )
            for key, item in value.items()
        }
    if origin in (Union, types.UnionType):
        for option in arguments:
            attempt: list[str] = []
            converted = _convert(value, option, at, attempt)
            if not attempt:
                return converted
    converted = _convert_scalar(value, annotation)
    if converted is _MISMATCH:
        hint = " (quote it to make it a text)" if annotation is str and value is not None else ""
        problems.append(f"{at}: expected {describe(annotation)}, got {value!r}{hint}")
        return None
    return converted


def _convert_number(value: Any, annotation: Any, at: str, problems: list[str]) -> Any:
    """Convert a value to ``Annotated[number, Range(...)]``."""
    plain, *limits = typing.get_args(annotation)
    mismatches: list[str] = []
    converted = _convert(value, plain, at, mismatches)
    if not mismatches and any(isinstance(r, Range) and converted not in r for r in limits):
        mismatches.append(f"{at}: expected {describe(annotation)}, got {value!r}")
    problems += mismatches
    return converted


def _convert_scalar(value: Any, annotation: Any) -> Any:
    """Return a value that has no parts converted to `annotation`, or ``_MISMATCH``."""
    if typing.get_origin(annotation) is Literal:
        options = typing.get_args(annotation)
        fits = any(value == option and type(value) is type(option) for option in options)
        return value if fits else _MISMATCH
    if annotation is Any:
        return value
    if annotation is float and type(value) is int:
        return float(value)
    if annotation is Path and isinstance(value, (str, Path)):
        return Path(value)
    if annotation is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if type(value) is annotation else _MISMATCH
