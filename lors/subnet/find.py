"""Find the mask of each language: prune the entries of its matrices that matter least.

A criterion gives every entry a score; the smallest scores are pruned:

- ``magnitude``, the lottery ticket: the magnitude of the weight after fine-tuning on the language.
  The weights themselves are rewound: training begins at the base model again. With several experts
  of a language, one for each task, the score is the mean of their magnitudes.
- ``taylor``: |w dL/dw| summed over all batches of the language's data, which is to first order the
  change of the loss if the entry becomes zero.
- ``common`` and ``common_taylor``, controls: the mean of these scores over all languages, so one
  mask for all. The difference of ``magnitude`` from ``common``, and of ``taylor`` from
  ``common_taylor``, is what a mask for each language adds to pruning.

The first two are the criteria of S3Net (arXiv 2203.04583) as we know them; see the README of the
recipe.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from lors.checkpoint.expert import open_expert
from lors.checkpoint.finite import check_finite
from lors.checkpoint.masks import write_masks
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.safetensors_file import SafetensorsFile
from lors.checkpoint.writer import write_tensors
from lors.errors import LorsError, UsageError
from lors.linalg.combine import mean_of
from lors.linalg.sparsify import GlobalThreshold, top_k_of_each
from lors.merge.policy import find_policy, load_policy
from lors.subnet.criteria import Criterion

Scope = Literal["matrix", "global"]
"""Whether the rate holds for each matrix, or for all matrices together."""
Scores = Callable[[str], Tensor]
"""Name of a matrix -> float32 scores of its entries."""
LOWEST_RATE, HIGHEST_RATE = 10, 90
"""Pruning rates in percent."""
BASE_KEY = "lors_base"
"""Key of the metadata with the base's fingerprint in a file of scores."""


def pruned_matrices(model: Checkpoint, policy: str | None = None) -> list[str]:
    """Return the names of the matrices that a policy for merging prunes.

    Args:
        model: the model.
        policy: name or file of the policy; by default found from the names of the tensors.

    Raises:
        LorsError: no policy knows the model, or it prunes nothing.
        UsageError: there is no policy of this name.
    """
    found = load_policy(policy) if policy else find_policy(model.names(), where=model.path)
    names = [name for name, action in found.actions(model.spec()).items() if action == "prune"]
    if not names:
        raise LorsError("the policy prunes no matrix of this model", where=model.path)
    return names


def magnitude_scores(base: Checkpoint, experts: Sequence[str | os.PathLike]) -> Scores:
    """Return the mean magnitudes of the weights of a language's fine-tuned models.

    Raises:
        LorsError: as :func:`lors.checkpoint.expert.open_expert`.
    """
    models = [open_expert(base, path) for path in experts]
    return lambda name: mean_of([model.tensor(name).float().abs() for model in models])


def taylor_scores(base: Checkpoint, paths: Sequence[str | os.PathLike]) -> Scores:
    """Return the mean of the scores in some files of :func:`write_scores`.

    Raises:
        LorsError: scores belong to another base model, or a file is none of scores.
    """
    files = [_scores_of(base, Path(path)) for path in paths]
    return lambda name: mean_of([file.tensor(name) for file in files])


def _scores_of(base: Checkpoint, path: Path) -> SafetensorsFile:
    file = SafetensorsFile(path)
    if file.metadata.get(BASE_KEY) != base.fingerprint():
        raise LorsError(
            "these scores belong to another base model",
            where=path,
            expected=f"scores on {base.path}, fingerprint {base.fingerprint()}",
            got=f"fingerprint {file.metadata.get(BASE_KEY)}",
            hint="compute them on this base model: python -m lors.bin.importance",
        )
    return file


def write_scores(path: str | os.PathLike, base: Checkpoint, scores: Mapping[str, Tensor]) -> None:
    """Write the scores of all matrices, with the fingerprint of the base model."""
    write_tensors(path, scores, {BASE_KEY: base.fingerprint()})


def find_masks(
    path: str | os.PathLike,
    base: Checkpoint,
    scores: Mapping[str, Scores],
    criterion: Criterion,
    rate: int,
    scope: Scope = "matrix",
    policy: str | None = None,
) -> None:
    """Find the masks of some languages and write them to a file.

    Args:
        path: the ``.safetensors`` file to write.
        base: the base model.
        scores: language -> its scores.
        criterion: where the scores are from, for the record.
        rate: percentage of the entries that are pruned, from 10 to 90.
        scope: whether it holds for each matrix or for all together.
        policy: as for :func:`pruned_matrices`.

    Raises:
        UsageError: another rate, or no such policy.
        LorsError: scores that are NaN or infinite, or of another shape; as
            :func:`pruned_matrices`.
    """
    if type(rate) is not int or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UsageError(
            "this pruning rate is out of range",
            where="--rate",
            expected=f"a whole percentage from {LOWEST_RATE} to {HIGHEST_RATE}",
            got=rate,
        )
    names = pruned_matrices(base, policy)
    prune = _prune_each if scope == "matrix" else _prune_together
    masks = {lang: prune(names, _checked(base, lang, of), rate) for lang, of in scores.items()}
    settings = {"criterion": criterion, "rate": rate, "scope": scope}
    write_masks(path, base, names, masks, settings)


def _checked(base: Checkpoint, lang: str, scores: Scores) -> Scores:
    def checked(name: str) -> Tensor:
        found = scores(name)
        if tuple(found.shape) != base.shape(name):
            raise LorsError(
                "scores of a matrix of another shape",
                where=f"{lang}: {name}",
                expected=str(list(base.shape(name))),
                got=str(list(found.shape)),
            )
        check_finite(found, f"scores of {lang}: {name}")
        return found

    return checked


def _prune_each(names: Sequence[str], scores: Scores, rate: int) -> dict[str, Tensor]:
    masks = {}
    for name in names:
        found = scores(name)
        kept = found.numel() - found.numel() * rate // 100
        masks[name] = top_k_of_each(found.reshape(found.shape[0], -1), kept).bool()
        masks[name] = masks[name].reshape(found.shape)
    return masks


def _prune_together(names: Sequence[str], scores: Scores, rate: int) -> dict[str, Tensor]:
    """Prune the smallest scores of all matrices; among ties the first are kept."""
    sizes = {name: math.prod(scores(name).shape) for name in names}
    kept = sum(sizes.values()) - sum(sizes.values()) * rate // 100
    threshold = GlobalThreshold(count=kept)
    for _ in range(threshold.PASSES):
        for name in names:
            threshold.add(scores(name))
        threshold.end_pass()
    masks, ties = {}, {}
    for name in names:
        found = scores(name)
        masks[name] = found > threshold.threshold
        ties[name] = found == threshold.threshold
    room = kept - sum(int(mask.sum()) for mask in masks.values())
    for name, tied in ties.items():
        places = tied.reshape(-1).nonzero()[:room, 0]
        masks[name].reshape(-1)[places] = True
        room -= len(places)
    return masks
