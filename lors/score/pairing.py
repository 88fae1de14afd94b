"""Pairing of references and hypotheses by utterance id."""

from __future__ import annotations

from collections.abc import Mapping

from lors.errors import LorsError, shortened

SHOWN = 20
"""Number of utterance ids that an error message names; the others are counted."""
RUN_AGAIN = (
    "run inference on this test set again; an empty hypothesis is a line with only the utterance id"
)
OTHERS = (
    "give the transcripts of this test set; the scores of other test sets are there, and "
    "python -m lors.bin.results reports them"
)
REMOVE_INVISIBLE = (
    "remove the invisible characters (shown as escapes) from the ids; many editors write a byte "
    "order mark, \\ufeff, at the start of a file"
)


def match_utterances(
    refs: Mapping[str, str], hyps: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return references and hypotheses in one order, sorted by utterance id.

    A score over a part of the test set is not its score: both must have the same utterances.

    Raises:
        LorsError: there are no references, or ids are missing from `hyps` or not in `refs`.
    """
    if not refs:
        raise LorsError("no references to score against", hint="is the reference file empty?")
    problems = [
        f"{len(ids)} without a {lacking}: {', '.join(shortened(map(_shown, ids), SHOWN))}"
        for lacking, ids in (
            ("hypothesis", sorted(refs.keys() - hyps.keys())),
            ("reference", sorted(hyps.keys() - refs.keys())),
        )
        if ids
    ]
    if problems:
        is_visible = all(map(str.isprintable, refs.keys() ^ hyps.keys()))
        raise LorsError(
            "references and hypotheses are not of the same utterances",
            expected=f"exactly one hypothesis for each of the {len(refs)} references",
            got=problems,
            hint=RUN_AGAIN if is_visible else REMOVE_INVISIBLE,
        )
    ids = sorted(refs)
    return [refs[i] for i in ids], [hyps[i] for i in ids]


def _shown(utterance_id: str) -> str:
    """Return an id, with its invisible characters as escapes."""
    return utterance_id if utterance_id.isprintable() else repr(utterance_id)
