"""BoostedTSV-M: TSV-Merge after raising small singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from torch import Tensor

from lors.config import Range
from lors.linalg.svd import merge_matrices, merge_singular_vectors, numerical_svd
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def boosted_tsv_m(deltas: Sequence[Tensor], *, beta: Annotated[float, Range(0, 1)] = 0.3) -> Tensor:
    """tsv_m of task vectors whose small singular values are raised.

    For each tau_t = U S V', let k be the first index at which the cumulative energy reaches the
    fraction beta: sum_{i<=k} S_i^2 >= beta sum_i S_i^2. S_i becomes max(S_i, S_k), so that
    directions of little weight in one expert do not collapse in the merge. Then tsv_m merges the
    task vectors; with beta 1 nothing is raised (Carvalho, Teixeira, Rolland, Abad, "Exploring the
    potential and limitations of Model Merging for Multi-Domain Adaptation in ASR", arXiv
    2603.05354, with beta 0.3; we understand energy as the squared singular values, and compute the
    polar factors of tsv_m exactly, not by Newton-Schulz steps). Tensors that the policy does not
    prune are averaged.

    Singular values of 0, as in the task vector of an adapter, are not raised: nothing was learnt in
    these directions, and their vectors are arbitrary.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.
        beta: fraction of the energy, from 0 to 1; a smaller value raises more singular values.

    Returns:
        The merged delta, same shape.
    """

    def boosted(tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        left, values, right = numerical_svd(tau)
        energy = np.cumsum(values**2)
        if beta == 1 or not len(values):
            return left, values, right
        floor = values[np.searchsorted(energy, beta * energy[-1])]
        return left, np.maximum(values, floor), right

    return merge_matrices(deltas, lambda taus: merge_singular_vectors(map(boosted, taus)))
