"""Pairing of references and hypotheses by utterance id."""

from __future__ import annotations

from collections.abc import Mapping

from lors.errors import LorsError, shortened

SHOWN = 20
"""Number of utterance ids that an error message names; the others are counted."""


def match_utterances(
    refs: Mapping[str, str], hyps: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return references and hypotheses in one order, sorted by utterance id.

    A score over a part of the test set is not its score: both must have the same utterances.

    Raises:
        LorsError: there are no references, or ids are missing from `hyps` or not in `refs`.
    """
    if not refs:
        raise LorsError("no references to score against")
    problems = [
        f"{len(ids)} without a {lacking}: {', '.join(shortened(ids, SHOWN))}"
        for lacking, ids in (
            ("hypothesis", sorted(refs.keys() - hyps.keys())),
            ("reference", sorted(hyps.keys() - refs.keys())),
        )
        if ids
    ]
    if problems:
        raise LorsError(
            "references and hypotheses are not of the same utterances",
            expected=f"exactly one hypothesis for each of the {len(refs)} references",
            got=problems,
            hint="run inference on this test set again; an empty hypothesis is a line "
            "with only the utterance id",
        )
    ids = sorted(refs)
    return [refs[i] for i in ids], [hyps[i] for i in ids]
