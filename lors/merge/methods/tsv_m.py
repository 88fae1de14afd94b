"""TSV-Merge: task singular vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lors.linalg.svd import merge_matrices, merge_singular_vectors, numerical_svd
from lors.merge.methods.base import joint_method


@joint_method(combines="mean", applies_to="matrices")
def tsv_m(deltas: Sequence[Tensor]) -> Tensor:
    """Leading singular vectors of each task vector, made orthogonal to those of the other experts.

    Each of N task vectors keeps its full_rank / N leading singular triplets U_t, S_t, V_t. They are
    put side by side, U and V are replaced by their polar factors, and delta = U S V' (Gargiulo et
    al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025). Tensors
    that the policy does not prune are averaged.

    A task vector of low rank, e.g. of an adapter, may have fewer triplets than its share. Triplets
    of singular value 0 are left out: their vectors are arbitrary and would turn the other vectors.

    Args:
        deltas: task vectors of one matrix, one for each expert, float32.

    Returns:
        The merged delta, same shape.
    """
    return merge_matrices(deltas, lambda taus: merge_singular_vectors(map(numerical_svd, taus)))
