"""Parts of one tensor in a file of a task vector: whole, or low-rank and sparse, in float16.

Each part is divided by a power of two, so that its largest value is from 2**14 to 2**15: float16
then rounds every value to 11 significant bits, also those of small task vectors. The sparse part is
taken from the rounded low-rank part, so its entries make good for that rounding.

| part | content |
|---|---|
| ``whole`` | float16, the shape of the tensor |
| ``up``, ``down`` | float16, rows x k and k x columns; the low-rank part is their product |
| ``values`` | float16, the entries of the sparse part, in row-major order |
| ``gaps`` or ``bitmap`` | uint8, their positions (:mod:`lors.checkpoint.positions`) |
| ``scale`` | float32, the factor of ``whole``; or those of the product and of ``values`` |

Rows are the first dimension of the tensor, columns all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lors.checkpoint import positions
from lors.checkpoint.reader import Spec

Parts = Mapping[str, Tensor]
"""Name of a part -> its tensor."""
WHOLE = {"whole", "scale"}
FACTORS, VALUES = {"up", "down"}, {"values"}
PLACES = {positions.GAPS, positions.BITMAP}
_LARGEST = 15
"""The largest value of a part is below two to this power; float16 ends at two to the 16th."""


def whole_parts(delta: Tensor) -> dict[str, Tensor]:
    """Return the parts of a task vector that is kept whole; none if it is zero."""
    if not delta.any():
        return {}
    values, exponent = _half(delta)
    return {"whole": values, "scale": _scale(exponent)}


def reduced_parts(up: Tensor, down: Tensor, sparse: Tensor) -> dict[str, Tensor]:
    """Return the parts of a low-rank and sparse matrix; none if it is zero.

    Args:
        up, down: factors of the low-rank part, rows x k and k x columns.
        sparse: the sparse part, rows x columns, float32.
    """
    kept = (sparse != 0).reshape(-1).numpy()
    matrix = (up @ down).float() + sparse
    parts: dict[str, Tensor] = {}
    exponents = [0, 0]
    rounded = torch.zeros_like(matrix)
    if up.shape[1]:
        (parts["up"], one), (parts["down"], other) = _half(up), _half(down)
        exponents[0] = one + other
        rounded = _product(parts["up"], parts["down"], 2.0 ** exponents[0])
    if kept.any():
        kind, code = positions.encode(kept)
        rest = (matrix - rounded).reshape(-1)[torch.from_numpy(kept)]
        parts["values"], exponents[1] = _half(rest)
        parts[kind] = torch.from_numpy(code)
    return {**parts, "scale": _scale(*exponents)} if parts else {}


def delta_of(parts: Parts, shape: tuple[int, ...]) -> Tensor:
    """Return the task vector of a tensor, float32, from parts without :func:`problem_of`.

    Raises:
        ValueError: the positions of the sparse part do not fit.
    """
    scale = parts["scale"].tolist()
    if "whole" in parts:
        return parts["whole"].float().mul_(scale[0])
    rows = shape[0]
    if "up" in parts:
        delta = _product(parts["up"], parts["down"], scale[0])
    else:
        delta = torch.zeros(rows, math.prod(shape[1:]))
    if "values" in parts:
        (kind,) = PLACES & parts.keys()
        places = positions.decode(kind, parts[kind].numpy(), delta.numel())
        if len(places) != len(parts["values"]):
            raise ValueError(f"{len(places)} positions for {len(parts['values'])} values")
        delta.view(-1).numpy()[places] += parts["values"].float().mul_(scale[1]).numpy()
    return delta.reshape(shape)


def problem_of(spec: Spec, shape: tuple[int, ...]) -> str | None:
    """Return why parts of these shapes and dtypes cannot be those of a tensor; None if they can.

    Args:
        spec: name of a part -> its shape and dtype.
        shape: shape of the tensor in the base model.
    """
    names = set(spec)
    sparse = names & (VALUES | PLACES)
    complete = names == WHOLE or (
        names - FACTORS - sparse == {"scale"}
        and names & FACTORS in (set(), FACTORS)
        and (not sparse or ("values" in sparse and len(sparse) == 2))
        and len(names) > 1
    )
    if not complete:
        return f"parts {', '.join(sorted(names))}"
    for name, (found, dtype) in spec.items():
        wanted = {"scale": torch.float32, **dict.fromkeys(PLACES, torch.uint8)}
        if dtype != wanted.get(name, torch.float16):
            return f"{name} of {dtype}"
        if not _fits(name, found, shape, names == WHOLE):
            return f"shape {list(shape)} in the base model, {name} of shape {list(found)}"
    if names >= FACTORS and spec["up"][0][1] != spec["down"][0][0]:
        return f"factors of shape {list(spec['up'][0])} and {list(spec['down'][0])}"
    return None


def _fits(name: str, found: tuple[int, ...], shape: tuple[int, ...], whole: bool) -> bool:
    """Return whether a part of shape `found` can belong to a tensor of this shape."""
    if name == "whole":
        return found == shape
    if name == "scale":
        return found == ((1,) if whole else (2,))
    if len(shape) < 2:
        return False
    rows, columns = shape[0], math.prod(shape[1:])
    if name in FACTORS:
        side = rows if name == "up" else columns
        rank = found[len(found) - 1 if name == "up" else 0] if found else 0
        expected = (side, rank) if name == "up" else (rank, side)
        return found == expected and 0 < rank <= min(rows, columns)
    longest = rows * columns if name == "values" else positions.longest(name, rows * columns)
    return len(found) == 1 and 0 < found[0] <= longest


def _half(values: Tensor) -> tuple[Tensor, int]:
    """Return values / 2**exponent in float16, and the exponent that uses its range."""
    exponent = math.frexp(float(values.abs().max()))[1] - _LARGEST
    return (values.double() * 2.0**-exponent).half().contiguous(), exponent


def _scale(*exponents: int) -> Tensor:
    return torch.from_numpy(np.array([2.0**e for e in exponents], dtype=np.float32))


def _product(up: Tensor, down: Tensor, scale: float) -> Tensor:
    return up.float() @ down.float().mul_(scale)
