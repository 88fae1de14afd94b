"""Sizes and errors of a quantised model, for the command inspect."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lors.checkpoint.adapter_base import hash_of_weights
from lors.checkpoint.quantised import QuantisedCheckpoint
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.writer import size_of
from lors.errors import LorsError


def quantised_findings(
    model: QuantisedCheckpoint, base: Checkpoint | None = None
) -> dict[str, Any]:
    """Measure a quantised model.

    Args:
        model: the quantised model.
        base: the model that was quantised, in full precision.

    Returns:
        ``kind``, ``block``, ``double`` and ``base`` of its header; ``bytes`` and ``parameters``,
        each with ``file`` (all), ``quantised`` (in 4 bits) and ``whole`` (the others);
        ``matrices``, name -> ``shape``, ``bits`` (a weight, scales included) and, with `base`,
        ``error``: the norm of base minus dequantised weights divided by the norm of the base;
        ``error`` of all matrices together, or None.

    Raises:
        LorsError: `base` is another model than the one that was quantised.
    """
    header = model.header
    if base is not None and (found := hash_of_weights(base)) != header.base:
        raise LorsError(
            "this model is not the one that was quantised",
            where=base.path,
            expected=f"hash of the weights {header.base}",
            got=found,
        )
    matrices: dict[str, dict[str, Any]] = {}
    quantised_bytes = lost = energy = 0.0
    for name in model.quantised_names():
        packed, shape = model.nf4(name), model.shape(name)
        quantised_bytes += packed.nbytes
        matrices[name] = {"shape": list(shape), "bits": 8 * packed.nbytes / math.prod(shape)}
        if base is not None:
            weight = base.tensor(name).double()
            error = float((weight - packed.dequantised()).square().sum())
            norm = float(weight.square().sum())
            matrices[name]["error"] = math.sqrt(error / norm) if norm else 0.0
            lost, energy = lost + error, energy + norm
    return {
        "kind": header.kind,
        "block": header.block,
        "double": header.double,
        "base": header.base,
        **_sizes(model, matrices, int(quantised_bytes)),
        "matrices": matrices,
        "error": math.sqrt(lost / energy) if energy else None,
    }


def _sizes(
    model: QuantisedCheckpoint, matrices: Collection[str], quantised_bytes: int
) -> dict[str, dict[str, int]]:
    """Return bytes and parameters of the file, of its matrices in 4 bits, and of the others."""
    others = {name: form for name, form in model.spec().items() if name not in matrices}
    return {
        "bytes": {
            "file": model.path.stat().st_size,
            "quantised": quantised_bytes,
            "whole": size_of(others),
        },
        "parameters": {
            "file": model.numel(),
            "quantised": model.numel(matrices),
            "whole": model.numel(others),
        },
    }


def quantised_tables(findings: Mapping[str, Any]) -> list[Sequence[Sequence[str]]]:
    """Return the findings of :func:`quantised_findings` as tables of text."""
    scales = "quantised" if findings["double"] else "in float32"
    about = (
        f"{findings['kind']}, blocks of {findings['block']}, scales {scales}; made from the model "
        f"with the hash {findings['base']}"
    )
    labels = {"quantised": "in 4 bits", "whole": "the other tensors", "file": "the file"}
    sizes = [["", "parameters", "MB", "bits a parameter", "times smaller than float32"]]
    for part, label in labels.items():
        number, size = findings["parameters"][part], findings["bytes"][part]
        bits = [f"{8 * size / number:.2f}", f"{4 * number / size:.2f}"] if number else ["-", "-"]
        sizes.append([label, str(number), f"{size / 1e6:.2f}", *bits])
    head = ["matrix", "shape", "bits a weight"]
    measured = findings["error"] is not None
    rows = [[*head, "relative error"] if measured else head]
    for name, found in findings["matrices"].items():
        shape = " x ".join(str(size) for size in found["shape"])
        error = [f"{found['error']:.4f}"] if measured else []
        rows.append([name, shape, f"{found['bits']:.2f}", *error])
    if measured:
        rows.append(["all", "", "", f"{findings['error']:.4f}"])
    return [[[about]], sizes, rows]
