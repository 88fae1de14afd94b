"""What is in task vectors and how they interfere, matrix by matrix, without merging anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lors.errors import UsageError
from lors.linalg.calibration import projection_coefficients
from lors.linalg.svd import as_matrix, numerical_rank, numerical_svd, thin_svd
from lors.merge.run import MergeInputs

LARGEST = 0.2
"""The share of entries whose energy is told: the density of LoRS's default."""


def inspect_matrices(
    inputs: MergeInputs, rank: int, pattern: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(name, findings)`` for every matrix that the policy prunes.

    Args:
        inputs: opened base model and experts.
        rank: of the low-rank parts that are looked at.
        pattern: only tensors whose name has this text in it.

    Returns:
        For each matrix a JSON-serialisable dictionary; None in it is what there is nothing to
        measure for, as the angle to a task vector that is zero:

        - ``shape``, ``rank`` (at most the full one)
        - ``experts``: for each, ``norm`` (Frobenius), ``relative_norm`` (to the base's weight),
          ``spectrum`` (all singular values), ``stable_rank`` (squared norm / largest squared
          singular value), ``energy`` (share of the squared norm in the leading `rank` triplets),
          ``largest_energy`` (share in the 20 % largest entries), ``zeros`` (share of entries that
          are 0)
        - ``cosine``, ``sign_agreement`` (among entries where neither is 0; 0.5 is chance),
          ``overlap`` (of the leading left subspaces: mean squared cosine of the principal angles;
          1 is the same subspace, or that the one of lower rank is within the other; directions
          beyond a task vector's numerical rank are none): matrices between experts
        - ``inflation``: for each of the `rank` leading directions of the sum, or of its numerical
          rank if that is lower, the mean of <u'D, u'tau_t> / |u'tau_t|^2 over experts (see
          :mod:`lors.linalg.calibration`). It is 1 for experts that are orthogonal in rows or in
          columns, and N where all N are the same, but neither is a bound: the leading directions of
          a sum are those in which experts add up, so that unrelated ones have more than 1;
          experts that are the same but for their size have more than N, opposite ones less than 1.
          One expert has 1

    Raises:
        UsageError: `rank` is less than 1, or no matrix matches.
    """
    if rank < 1:
        raise UsageError("the rank to look at is too small", expected="1 or more", got=rank)
    for name in matrix_names(inputs, pattern):
        taus = [as_matrix(vector.delta(name)) for vector in inputs.vectors]
        yield name, _findings(as_matrix(inputs.base.tensor(name)), taus, rank)


def matrix_names(inputs: MergeInputs, pattern: str | None = None) -> list[str]:
    """Names of the matrices that the policy prunes, with `pattern` in them.

    Raises:
        UsageError: there are none.
    """
    names = [name for name, action in inputs.actions.items() if action == "prune"]
    names = [name for name in names if pattern is None or pattern in name]
    if not names:
        raise UsageError(
            "no matrix to look at",
            expected="part of the name of a tensor that the policy prunes",
            got=pattern,
        )
    return names


def _findings(base: np.ndarray, taus: Sequence[np.ndarray], rank: int) -> dict[str, Any]:
    rank = min(rank, *base.shape)
    decompositions = [thin_svd(tau) for tau in taus]
    lefts = [
        left[:, : min(rank, numerical_rank(values, base.shape))]
        for left, values, _ in decompositions
    ]
    count = len(taus)
    pairs = {
        title: [[measure(i, j) for j in range(count)] for i in range(count)]
        for title, measure in (
            ("cosine", lambda i, j: _cosine(taus[i], taus[j])),
            ("sign_agreement", lambda i, j: _sign_agreement(taus[i], taus[j])),
            ("overlap", lambda i, j: _overlap(lefts[i], lefts[j])),
        )
    }
    return {
        "shape": list(base.shape),
        "rank": rank,
        "experts": [
            _of_expert(base, tau, values, rank)
            for tau, (_, values, _) in zip(taus, decompositions, strict=True)
        ],
        **pairs,
        "inflation": _inflation(taus, rank),
    }


def _of_expert(base: np.ndarray, tau: np.ndarray, values: np.ndarray, rank: int) -> dict[str, Any]:
    energy = float(np.sum(values**2))
    squares = np.sort(tau.ravel() ** 2)
    kept = int(tau.size * LARGEST)
    return {
        "norm": energy**0.5,
        "relative_norm": _ratio(energy**0.5, float(np.linalg.norm(base))),
        "spectrum": values.tolist(),
        "stable_rank": _ratio(energy, float(values[0] ** 2)),
        "energy": _ratio(float(np.sum(values[:rank] ** 2)), energy),
        "largest_energy": _ratio(float(squares[len(squares) - kept :].sum()), energy),
        "zeros": float(np.mean(tau == 0)),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _overlap(one: np.ndarray, other: np.ndarray) -> float | None:
    return _ratio(float(np.sum((one.T @ other) ** 2)), min(one.shape[1], other.shape[1]))


def _cosine(one: np.ndarray, other: np.ndarray) -> float | None:
    return _ratio(float(np.vdot(one, other)), float(np.linalg.norm(one) * np.linalg.norm(other)))


def _sign_agreement(one: np.ndarray, other: np.ndarray) -> float | None:
    both = (one != 0) & (other != 0)
    return _ratio(float(np.sum(both & (np.sign(one) == np.sign(other)))), float(np.sum(both)))


def _inflation(taus: Sequence[np.ndarray], rank: int) -> list[float]:
    left, values, right = numerical_svd(sum(taus))
    leading = (left[:, :rank], values[:rank], right[:rank])
    return projection_coefficients(taus, *leading).mean(axis=0).tolist()
