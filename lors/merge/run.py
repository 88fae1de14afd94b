"""Run a merge plan: into a file, as an iterator of tensors, or as deltas for a sweep.

The merged model is ``base + scaling_coef * delta`` for every tensor that the policy prunes or
merges whole; the other tensors are copied from the base model. The delta is the result of the
merge method for the weighted task vectors (:mod:`lors.merge.engine`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import ESPNET_CONFIG
from lors.fileio import write_text
from lors.log import show_progress
from lors.merge.decompositions import Decompositions
from lors.merge.engine import Merger
from lors.merge.plan import MergeInputs, MergePlan, open_inputs
from lors.merge.record import (
    RECORD_NAME,
    check_fingerprints,
    record_of,
    unfinished_record,
)
from lors.merge.target import check_target
from lors.merge.task_vector import add_delta


def merged_delta(
    plan: MergePlan,
    inputs: MergeInputs | None = None,
    nj: int = 1,
    cache: Decompositions | None = None,
    reuse: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return all merged deltas before scaling_coef; :func:`apply_delta` makes models of them.

    Args:
        plan: the plan.
        inputs: the open files, if another plan with the same models and policy has opened them.
        nj: number of threads; the result does not depend on it.
        cache: directory of decompositions to keep for further merges of the same experts.
        reuse: the deltas of a plan with the same models, weights, policy and method. If the method
            is for matrices, those of the tensors that are merged whole are taken from it; others
            are not needed.

    Raises:
        UsageError: `nj` is less than 1.
        LorsError: as :func:`open_inputs`, or NaN or infinite values in a model.
    """
    inputs = open_inputs(plan, inputs)
    merger = Merger(plan, inputs, nj, cache)
    for name in inputs.names("copy"):
        merger.check_values(name)
    known = {}
    if reuse and plan.merge_method.applies_to == "matrices":
        known = {name: reuse[name] for name in inputs.names("whole")}
    names = [name for name, action in inputs.actions.items() if action != "copy"]
    found = known | dict(merger.deltas(name for name in names if name not in known))
    return {name: found[name] for name in names}


def apply_delta(
    base: Checkpoint,
    delta: Mapping[str, Tensor],
    scaling_coef: float,
    dtype: torch.dtype | None = None,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the state dict ``base + scaling_coef * delta``.

    Args:
        base: the base model.
        delta: from :func:`merged_delta`. Tensors without a delta are taken from the base model
            without a copy.
        scaling_coef: factor of the delta.
        dtype: dtype of the floating-point tensors; by default that of the base model.
        out: result of an earlier call with the same arguments except `scaling_coef`. It is
            overwritten, so that no new model is allocated.
    """
    state = {}
    for name in base.names():
        room = out[name] if out is not None and name in delta else None
        state[name] = add_delta(name, base.tensor(name), delta.get(name), scaling_coef, dtype, room)
    return state


def iter_merged(
    plan: MergePlan,
    inputs: MergeInputs | None = None,
    nj: int = 1,
    device: str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every ``(name, tensor)`` of the merged model in the order of the base model.

    Args:
        plan: the plan.
        inputs: the open files, if another plan with the same models and policy has opened them.
        nj: number of threads; the result does not depend on it.
        device: torch device on which matrices of one shape are decomposed together (lors and svp,
            without calibration); by default each matrix is decomposed separately on the CPU.

    Raises:
        UsageError: `nj` is less than 1, or torch cannot compute on the device.
        LorsError: as :func:`open_inputs`, or NaN or infinite values in a model.
    """
    merger = Merger(plan, open_inputs(plan, inputs), nj, device=device)
    yield from merger.run(merger.merged)


def run_merge(
    plan: MergePlan,
    out: str | os.PathLike,
    nj: int = 1,
    cache: Decompositions | None = None,
    names: str | None = None,
    device: str | None = None,
    fingerprints: Mapping[str, Any] | None = None,
) -> None:
    """Merge and write the model to `out`, with its record and the model configuration beside it.

    The record ``merge.yaml`` holds the resolved plan, the policy, the fingerprints of all inputs
    and the version of LoRS. The ``config.yaml`` of the base model, if there is one, is copied, so
    that ESPnet can load the result.

    Args:
        plan: the plan.
        out: file name that ends in ``.pth``, ``.safetensors`` or ``.pt`` (OpenAI's Whisper); its
            directory is made.
        nj: number of threads; the file does not depend on it.
        cache: directory of decompositions to keep for further merges of the same experts.
        names: naming scheme of the tensors (:func:`lors.checkpoint.naming.schemes`); by
            default the names of the base model, and OpenAI's names in a ``.pt``.
        device: as for :func:`iter_merged`.
        fingerprints: as for :func:`lors.merge.record.check_fingerprints`; None: any models.

    Raises:
        UsageError: as :func:`iter_merged`; a ``.pt`` with other names than OpenAI's; or `out` is a
            file of an input or one that no merge wrote, or its directory holds another model.
        LorsError: as :func:`iter_merged`; another fingerprint; a tensor has no name in the scheme;
            `onto` has another base model or one of the experts already; or writing fails.
    """
    out = Path(out)
    experts = "1 expert" if len(plan.experts) == 1 else f"{len(plan.experts)} experts"
    logging.info("reading the base model and %s", experts)
    inputs = _opened(plan, fingerprints)
    target = check_target(plan, inputs, out, names)
    merger = Merger(plan, inputs, nj, cache, device)

    def merged(name: str) -> Tensor:
        tensor = merger.merged(name)
        for model in inputs.models():
            model.note(name)  # for the fingerprints in the record, while the values are in memory
        return tensor

    with target.writer as writer:
        for name, tensor in tqdm(
            merger.run(merged),
            total=len(inputs.actions),
            desc=f"merge ({plan.method})",
            unit="tensor",
            disable=not show_progress(),
        ):
            writer.add(target.names[name], tensor)
        record = record_of(plan, inputs, out, target.history)
        write_text(out.parent / RECORD_NAME, unfinished_record(out))
    if target.config is not None:
        write_text(out.parent / ESPNET_CONFIG, target.config)
    write_text(out.parent / RECORD_NAME, record)
    logging.info("merged %s into %s", experts, out)


def _opened(plan: MergePlan, fingerprints: Mapping[str, Any] | None) -> MergeInputs:
    inputs = open_inputs(plan)
    check_fingerprints(plan, inputs, fingerprints or {})
    return inputs


def check_merge(
    plan: MergePlan,
    out: str | os.PathLike | None = None,
    nj: int = 1,
    names: str | None = None,
    device: str | None = None,
    fingerprints: Mapping[str, Any] | None = None,
) -> MergeInputs:
    """Check everything that :func:`run_merge` checks before it merges; nothing is written.

    Args:
        plan, nj, names, device, fingerprints: as for :func:`run_merge`.
        out: as for :func:`run_merge`; None if the place is not known yet.

    Returns:
        The open files of the plan.

    Raises:
        LorsError: as :func:`run_merge`.
    """
    inputs = _opened(plan, fingerprints)
    if out is not None:
        check_target(plan, inputs, Path(out), names)
    Merger(plan, inputs, nj, device=device)
    return inputs
