"""Names of the criteria by which masks are found; :mod:`lors.subnet.find` says what they do."""

from __future__ import annotations

from typing import Literal

Criterion = Literal["magnitude", "taylor", "common", "common_taylor"]
BY_TAYLOR = frozenset({"taylor", "common_taylor"})
"""Criteria that take Taylor scores of the base model; the others take the experts."""
ONE_FOR_ALL = frozenset({"common", "common_taylor"})
"""Criteria with one mask for all languages."""
