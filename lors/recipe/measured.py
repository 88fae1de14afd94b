"""Files of measurements beside the scores (overlap of masks, sizes of models), as dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from lors.config import FLOAT32, FRACTION, Range, build
from lors.errors import LorsError, UsageError
from lors.fileio import read_json_object

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

Count = Annotated[int, Range(1)]
"""A number of parameters or bytes, from which shares are computed."""
CountOrZero = Annotated[int, Range(0)]
"""A number that may be 0."""
Fraction = Annotated[float, FRACTION]
Finite = Annotated[float, FLOAT32]


def read_measured(
    cls: type[T], path: Path, stage: str, problems_of: Callable[[T], list[str]] | None = None
) -> T:
    """Read a file of measurements.

    Args:
        cls: the dataclass of its content.
        path: the file.
        stage: the stage of the recipes that writes it.
        problems_of: lists further problems of the content, beyond types and ranges.

    Raises:
        LorsError: the file is missing or malformed; all problems are listed.
    """
    try:
        content = build(cls, read_json_object(path), path)
        problems: object = problems_of(content) if problems_of else None
    except UsageError as error:
        problems = error.got
    if problems:
        raise LorsError(
            "not measurements that can be reported",
            where=path,
            got=problems,
            hint=f"remove it and run stage {stage} again, or report without it",
        )
    return content
