"""Plain values checked against type annotations: all mismatches are reported together."""

from __future__ import annotations

import dataclasses
import numbers
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from lors.config.ranges import Range
from lors.errors import BRIEF, UsageError, near_matches, shortened

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
REQUIRED: Any = object()
"""Default of a key that has no default and must be given."""
_MISMATCH = object()
MAX_PROBLEMS = 50
"""Largest number of problems of one file that are shown."""


@dataclasses.dataclass(frozen=True)
class Key:
    """The type annotation and the default (or ``REQUIRED``) of one key."""

    annotation: Any
    default: Any = REQUIRED


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
    raise_problems(problems, where)
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
    raise_problems(problems, where)
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


def raise_problems(problems: list[str], where: object) -> None:
    """Raise UsageError with all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(
            f"{count} in the configuration", where=where, got=shortened(problems, MAX_PROBLEMS)
        )


def _dataclass(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    """Return a `cls` with these values, or None after adding the mismatches to `problems`."""
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')}: expected a mapping, got {BRIEF.repr(values)}")
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
            if len(problems) >= MAX_PROBLEMS:  # not shown; similar names take a while to find
                hint = "not in the list of keys"
            elif keys:
                hint = near_matches(str(name), keys) or f"known: {', '.join(keys)}"
            problems.append(f"{prefix}{name!s:.200}: unknown ({hint})")
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
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        if isinstance(value, annotation):  # converted before, as by dataclasses.replace()
            return value
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
        problems.append(f"{at}: expected {describe(annotation)}, got {BRIEF.repr(value)}{hint}")
        return None
    return converted


def _convert_number(value: Any, annotation: Any, at: str, problems: list[str]) -> Any:
    """Convert a value to ``Annotated[number, Range(...)]``."""
    plain, *limits = typing.get_args(annotation)
    mismatches: list[str] = []
    converted = _convert(value, plain, at, mismatches)
    if not mismatches and any(isinstance(r, Range) and converted not in r for r in limits):
        mismatches.append(f"{at}: expected {describe(annotation)}, got {BRIEF.repr(value)}")
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
        return float(value) if abs(value) < 2**63 else _MISMATCH
    if annotation is Path and isinstance(value, (str, Path)):
        return Path(value)
    if annotation is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if type(value) is annotation else _MISMATCH
