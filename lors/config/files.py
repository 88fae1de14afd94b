"""YAML files and name=value options as plain data, in bounded time and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lors.config.schema import T, build, raise_problems
from lors.errors import BRIEF, LorsError, UsageError, from_os_error

if TYPE_CHECKING:
    _FastLoader = yaml.SafeLoader
else:  # the same in C, where PyYAML has it
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):
    """PyYAML's safe loader; a repeated key or a malformed value is a YAMLError, 1e-3 is a number.

    PyYAML itself keeps the last of two equal keys, and raises ValueError, KeyError and others for
    malformed values. It follows YAML 1.1, in which a number with an exponent and without a decimal
    point (1e-3) is a string.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # a ValueError for more than 4300 digits, which 0xfff... may have
            return value
        except yaml.YAMLError:
            raise
        except Exception as error:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{BRIEF.repr(node.value)} is no {node.tag.rsplit(':')[-1]}: {error!s:.200}",
                node.start_mark,
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True) if key_node.tag != _MERGE else key_node
            if not isinstance(key, Hashable):
                break  # PyYAML refuses it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_MERGE = "tag:yaml.org,2002:merge"
"""Tag of the key ``<<``, which takes the entries of another mapping."""
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+\Z"),
    list("-+.0123456789"),
)


MAX_DEPTH = 200
"""Largest depth of nested collections in YAML: the record of a merge onto a merged model holds the
record of that model."""
MAX_NODES = 200_000
"""Largest number of values in YAML, with an alias counted as what it stands for. A model of ESPnet
may list 50,000 tokens."""


def parse_yaml(text: str) -> Any:
    """Parse YAML as plain data, in bounded time and memory.

    Raises:
        yaml.YAMLError: malformed text or values, a repeated key, an alias of the collection that
            it is in, deeper nesting than `MAX_DEPTH` or more values than `MAX_NODES`.
    """
    _check_size(text)
    return yaml.load(text, Loader=_Loader)


def _check_size(text: str) -> None:
    """Raise YAMLError if a text is nested too deeply or has too many values."""
    nodes = 0
    sizes: dict[str | None, int | None] = {}  # anchor -> values; None inside its collection
    inside: list[tuple[str | None, int]] = []  # anchor and first value of each open collection
    for event in yaml.parse(text, Loader=_Loader):
        problem = None
        if isinstance(event, yaml.AliasEvent):
            # An unknown anchor is an error of the loader.
            size = sizes.get(event.anchor, 0)
            nodes += size or 0
            problem = "an alias of the collection that it is in" if size is None else None
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, nodes - 1))
            if event.anchor:
                sizes[event.anchor] = None if isinstance(event, yaml.CollectionStartEvent) else 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = inside.pop()
            if anchor:
                sizes[anchor] = nodes - start
        if nodes > MAX_NODES:
            problem = f"more than {MAX_NODES} values, with aliases expanded"
        if len(inside) > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} nested collections"
        if problem:
            raise yaml.MarkedYAMLError(
                problem=problem,
                problem_mark=event.start_mark,  # type: ignore[arg-type]  # or the C parser's mark
            )


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; an empty file is an empty mapping.

    Raises:
        LorsError: the file is missing or cannot be read.
        UsageError: the file is not valid YAML, repeats a key, is too large or nested too deeply
            (:func:`parse_yaml`), or does not hold a mapping.
    """
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LorsError(
            "file not found", where=path, hint="correct the path, or write the file"
        ) from None
    except OSError as error:
        raise from_os_error(error) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            "not valid YAML", where=path, got=error, hint="correct the file at this place"
        ) from None
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
            problems.append(f"{BRIEF.repr(text)} is not of the form name=value")
        elif name in values:
            problems.append(f"{BRIEF.repr(name)} is given twice")
        else:
            try:
                values[name] = parse_yaml(value)
            except yaml.YAMLError:
                problems.append(f"{BRIEF.repr(text)}: the value is not valid YAML")
                continue
            if isinstance(values[name], dict) and any(":" in str(key) for key in values[name]):
                problems.append(f"{BRIEF.repr(text)}: a space is missing after the colon")
    raise_problems(problems, option)
    return values


def load_config(cls: type[T], path: str | os.PathLike) -> T:
    """Read a YAML file into the dataclass `cls`.

    Raises:
        LorsError: the file is missing.
        UsageError: the file does not fit `cls`; all problems are listed.
    """
    return build(cls, read_yaml(path), path)
