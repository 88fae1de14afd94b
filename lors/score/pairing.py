"""Bringing references and hypotheses together, utterance by utterance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lors.errors import LorsError

SHOWN = 20  # ids spelled out in an error; the rest is counted


def match_utterances(
    refs: Mapping[str, str], hyps: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """References and hypotheses in one order (sorted by utterance id).

    A set that does not match exactly is refused: a score over part of the utterances is not the
    score of the test set.

    Raises:
        LorsError: there are no references, or ids are missing from `hyps` or not in `refs`.
    """
    if not refs:
        raise LorsError("no references to score against")
    missing = sorted(set(refs) - set(hyps))
    extra = sorted(set(hyps) - set(refs))
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} without a hypothesis: {_listed(missing)}")
        if extra:
            parts.append(f"{len(extra)} without a reference: {_listed(extra)}")
        raise LorsError(
            "references and hypotheses are not of the same utterances",
            expected=f"exactly one hypothesis for each of the {len(refs)} references",
            got="; ".join(parts),
            hint="run the inference of this test set again; an empty hypothesis is a line "
            "with only the utterance id",
        )
    ids = sorted(refs)
    return [refs[i] for i in ids], [hyps[i] for i in ids]


def _listed(ids: Collection[str]) -> str:
    shown = ", ".join(list(ids)[:SHOWN])
    return shown if len(ids) <= SHOWN else f"{shown}, and {len(ids) - SHOWN} more"
