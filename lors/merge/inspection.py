"""Measures of task vectors and of their interference, matrix by matrix, without a merge."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lors.errors import UsageError
from lors.linalg.calibration import projection_coefficients
from lors.linalg.svd import as_matrix, numerical_rank, numerical_svd, thin_svd
from lors.merge.plan import MergeInputs

LARGEST = 0.2
"""Fraction of the entries whose energy is ``largest_energy``: the default density of LoRS."""


def inspect_matrices(
    inputs: MergeInputs, rank: int, pattern: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(name, findings)`` for every matrix that the policy prunes.

    Args:
        inputs: the open base model and experts.
        rank: rank of the low-rank parts, 1 or more.
        pattern: inspect only tensors with this text in their names.

    Returns:
        For each matrix a JSON-serialisable dictionary. A value is None if it is not defined, e.g.
        the cosine with a task vector that is zero:

        - ``shape``, ``rank`` (at most the full rank)
        - ``experts``: for each expert ``norm`` (Frobenius), ``relative_norm`` (to the weights of
          the base model), ``spectrum`` (all singular values), ``stable_rank`` (squared norm /
          largest squared singular value), ``energy`` (fraction of the squared norm in the leading
          `rank` triplets), ``largest_energy`` (fraction in the 20 % largest entries), ``zeros``
          (fraction of entries that are 0)
        - matrices experts x experts: ``cosine``; ``sign_agreement``, the fraction of equal signs
          among the entries where neither expert is 0 (0.5 is chance); ``overlap`` of the leading
          left subspaces, the mean squared cosine of the principal angles. The overlap is 1 if the
          subspaces are the same, or if one lies in the other. Directions beyond the numerical rank
          of a task vector do not count
        - ``inflation``: for each of the `rank` leading directions of the sum D (fewer if the
          numerical rank of D is lower), the mean over experts of <u'D, u'tau_t> / |u'tau_t|^2 (see
          :mod:`lors.linalg.calibration`). It is 1 for one expert and for experts that are
          orthogonal in rows or in columns, and N if all N experts are the same. These values are no
          bounds. In the leading directions of a sum the experts add up, so unrelated experts have
          more than 1. Experts that differ only in size have more than N; opposite experts have less
          than 1

    Raises:
        UsageError: `rank` is less than 1, or no matrix matches.
    """
    if rank < 1:
        raise UsageError(
            "the rank to inspect is too small", where="--rank", expected="1 or more", got=rank
        )
    for name in matrix_names(inputs, pattern):
        taus = [as_matrix(vector.delta(name)) for vector in inputs.vectors]
        yield name, _findings(as_matrix(inputs.base.tensor(name)), taus, rank)


def matrix_names(inputs: MergeInputs, pattern: str | None = None) -> list[str]:
    """Return the names of the matrices that the policy prunes, with `pattern` in them.

    Raises:
        UsageError: there are none.
    """
    names = [name for name in inputs.names("prune") if pattern is None or pattern in name]
    if not names:
        raise UsageError(
            "no matrix to inspect",
            where="--match",
            expected="part of the name of a tensor that the policy prunes",
            got=pattern,
        )
    return names


def mean_over(matrices: Mapping[str, Mapping[str, Any]], key: str) -> np.ndarray:
    """Return a measure between experts, as means over the matrices.

    Args:
        matrices: from :func:`inspect_matrices`.
        key: ``cosine``, ``sign_agreement`` or ``overlap``.

    Returns:
        Experts x experts; NaN where no matrix has a value.
    """
    return defined_mean([found[key] for found in matrices.values()])


def mean_inflations(matrices: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Return the mean inflation of the leading directions of each matrix; NaN where undefined."""
    return [float(defined_mean(found["inflation"] or [None])) for found in matrices.values()]


def defined_mean(values: Sequence[Any]) -> np.ndarray:
    """Return the mean over the first dimension, leaving None out; NaN where all values are None."""
    return np.ma.filled(np.ma.masked_invalid(np.array(values, dtype=float)).mean(axis=0), np.nan)


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
    left, values, right = numerical_svd(functools.reduce(operator.add, taus))
    leading = (left[:, :rank], values[:rank], right[:rank])
    return projection_coefficients(taus, *leading).mean(axis=0).tolist()
