"""Strict configuration: YAML files and name=value options checked against type annotations.

Nothing is guessed and nothing is ignored: an unknown key, a missing key and a value of the wrong
type or out of range are errors, and all the errors of a file are reported together.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from lors.errors import LorsError, UsageError, near_matches

T = TypeVar("T")
REQUIRED: Any = object()
"""The default of a key that must be given."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Limits of a number, both included, for ``Annotated[float, Range(0, 1)]``.

    A value that is not finite is always out of range.
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
"""Numbers that a tensor of float32 can be multiplied by."""


@dataclasses.dataclass(frozen=True)
class Key:
    """What is allowed under one key: a type annotation and a default (or ``REQUIRED``)."""

    annotation: Any
    default: Any = REQUIRED


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error and 1e-3 is a number.

    PyYAML keeps the last of two equal keys, and follows YAML 1.1, where a number without a decimal
    point (1e-3) is a string.
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
    """Read a YAML file that holds one mapping (an empty file is an empty mapping).

    Raises:
        LorsError: the file is missing.
        UsageError: it is not valid YAML, repeats a key, or holds something else than a mapping.
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
    """Parse ``["rank=7", "density=0.2"]`` as given to `option`; each value is read as YAML.

    Raises:
        UsageError: a text has no ``=``, a name repeats, or a value is not valid YAML or
            a mapping without a space after its colon.
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
    """Read a YAML file into the (frozen) dataclass `cls`.

    Raises:
        LorsError: the file is missing.
        UsageError: the file does not fit `cls`; every problem is listed.
    """
    return build(cls, read_yaml(path), path)


def build(cls: type[T], values: Mapping[str, Any], where: object) -> T:
    """Make a `cls` (a dataclass, possibly nested) from plain values.

    Args:
        cls: a dataclass; its annotations say what is allowed (``int``, ``float``, ``str``,
            ``bool``, ``Path``, ``Literal``, unions, ``list``, ``tuple``, ``dict``, other
            dataclasses, and ``Annotated[number, Range(...)]``).
        values: what was read from YAML or the command line.
        where: the file or option to name in errors.

    Raises:
        UsageError: an unknown or missing key, a wrong type or a value out of range; all listed.
    """
    problems: list[str] = []
    result = _dataclass(cls, values, "", problems)
    _raise_problems(problems, where)
    return result


def keys_of(cls: type) -> dict[str, Key]:
    """What is allowed under the name of each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    keys = {}
    for field in dataclasses.fields(cls):
        default = REQUIRED if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        keys[field.name] = Key(hints[field.name], default)
    return keys


def check(keys: Mapping[str, Key], values: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Check plain `values` against `keys`; return them converted and completed with the defaults.

    Raises:
        UsageError: as :func:`build`.
    """
    problems: list[str] = []
    result = _keys(keys, values, "", problems)
    _raise_problems(problems, where)
    return result


def describe(annotation: Any) -> str:
    """A type annotation in words: ``a number from 0 to 1``."""
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
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    names |= {
        Path: "a path",
        type(None): "null",
        Any: "anything",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(annotation, str(annotation))


def _raise_problems(problems: list[str], where: object) -> None:
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(
            f"{count} in the configuration", where=where, got="\n    - ".join(["", *problems])
        )


def _dataclass(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')}: expected a mapping, got {values!r}")
        return None
    before = len(problems)
    converted = _keys(keys_of(cls), values, prefix, problems)
    return cls(**converted) if len(problems) == before else None


def _keys(
    keys: Mapping[str, Key], values: Mapping[str, Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    for name in values:
        if name not in keys:
            hint = near_matches(str(name), keys) or f"known: {', '.join(keys)}"
            problems.append(f"{prefix}{name}: unknown ({hint if keys else 'there are none here'})")
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
    """`value` as `annotation` asks; a mismatch is added to `problems` with its place `at`."""
    if isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()  # a number of numpy's
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        before = len(problems)
        converted = _convert(value, arguments[0], at, problems)
        for limits in arguments[1:]:
            if len(problems) == before and isinstance(limits, Range) and converted not in limits:
                problems.append(f"{at}: expected {describe(annotation)}, got {value!r}")
        return converted
    if origin in (Union, types.UnionType):
        for option in arguments:
            attempt: list[str] = []
            converted = _convert(value, option, at, attempt)
            if not attempt:
                return converted
    elif dataclasses.is_dataclass(annotation):
        return _dataclass(annotation, value, f"{at}.", problems)
    elif origin in (list, tuple) and isinstance(value, (list, tuple)):
        items = [
            _convert(item, arguments[0], f"{at}[{index}]", problems)
            for index, item in enumerate(value)
        ]
        return origin(items)
    elif origin is dict and isinstance(value, Mapping):
        return {
            _convert(key, arguments[0], f"{at} (key)", problems): _convert(
                item, arguments[1], f"{at}.{key}", problems
            )
            for key, item in value.items()
        }
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
    elif annotation is Any:
        return value
    elif annotation is float and type(value) is int:
        return float(value)
    elif annotation is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif annotation is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    elif isinstance(annotation, type) and origin is None and type(value) is annotation:
        return value
    hint = " (quote it to make it a text)" if annotation is str and value is not None else ""
    problems.append(f"{at}: expected {describe(annotation)}, got {value!r}{hint}")
    return None
