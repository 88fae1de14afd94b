"""Word and character error rate of recognition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lors.errors import LorsError
from lors.score.pairing import OTHERS, match_utterances
from lors.score.result import ErrorRates
from lors.score.text import CHARACTER, LORS, get_normaliser
from lors.score.utterances import RecognisedUtterances
from lors.score.versions import installed_version
from lors.tasks import ASR

if TYPE_CHECKING:
    import numpy as np

_KINDS = ("substitute", "delete", "insert")
"""Names of jiwer for the errors, in the order of their columns."""


def score_asr(
    refs: Mapping[str, str], hyps: Mapping[str, str], lang: str, normaliser: str = LORS
) -> ErrorRates:
    """Compute error rates over a whole test set: all errors over all reference units.

    Arguments and errors are those of :func:`recognised_utterances`.
    """
    return error_rates(recognised_utterances(refs, hyps, lang, normaliser), lang, normaliser)


def recognised_utterances(
    refs: Mapping[str, str], hyps: Mapping[str, str], lang: str, normaliser: str = LORS
) -> RecognisedUtterances:
    """Normalise references and hypotheses, and count the errors of each utterance.

    Reference and hypothesis are normalised alike (:mod:`lors.score.text`). A reference that is
    empty after normalisation stays in the test set, and its hypothesis counts as insertions.

    Args:
        refs: utterance id -> reference transcript, as in the corpus.
        hyps: utterance id -> recognised text; may be empty.
        lang: Common Voice code of the spoken language.
        normaliser: one of :data:`lors.score.text.NORMALISERS`.

    Raises:
        UsageError: an unknown normaliser.
        LorsError: utterance ids differ, or all references are empty after normalisation.
    """
    import jiwer
    import numpy as np

    normalise = get_normaliser(lang, normaliser)
    ref_texts, hyp_texts = (tuple(map(normalise, texts)) for texts in match_utterances(refs, hyps))
    if not any(ref_texts):
        raise LorsError(
            "every reference is empty after normalisation: the error rate is undefined",
            expected=f"transcripts of language '{lang}'",
            got=f"{len(ref_texts)} references without a {normalise.unit}",
            hint=OTHERS,
        )
    words = _errors(jiwer.process_words, ref_texts, hyp_texts, str.split)
    if normalise.unit == CHARACTER:
        characters = words
    else:
        characters = _errors(jiwer.process_characters, ref_texts, hyp_texts, list)
    counts = np.column_stack([words, characters[:, 0], characters[:, 1:].sum(axis=1)])
    return RecognisedUtterances(tuple(sorted(refs)), ref_texts, hyp_texts, counts)


def error_rates(utterances: RecognisedUtterances, lang: str, normaliser: str = LORS) -> ErrorRates:
    """Return the error rates of utterances that were normalised for this language."""
    normalise = get_normaliser(lang, normaliser)
    words, substitutions, deletions, insertions = map(int, utterances.totals(ASR.metrics[0]))
    return ErrorRates(
        wer=utterances.score(ASR.metrics[0]),
        cer=utterances.score(ASR.metrics[1]),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        ref_words=words,
        unit=normalise.unit,
        utterances=len(utterances.ids),
        empty_refs=utterances.references.count(""),
        empty_hyps=utterances.hypotheses.count(""),
        normaliser=normalise.name,
        normaliser_version=normalise.version,
        jiwer_version=installed_version("jiwer"),
        sentence_errors=utterances.sentence_errors,
    )


def _errors(
    process: Callable, refs: Sequence[str], hyps: Sequence[str], units_of: Callable
) -> np.ndarray:
    """Return reference units, substitutions, deletions and insertions of each pair of texts.

    Args:
        process: jiwer's function for these units.
        refs: references.
        hyps: hypotheses.
        units_of: text -> its units.

    Returns:
        int64 (texts, 4).
    """
    import numpy as np

    counts = np.zeros((len(refs), 4), dtype=np.int64)
    spoken = [index for index, text in enumerate(refs) if text]  # some versions refuse the others
    found = process([refs[index] for index in spoken], [hyps[index] for index in spoken])
    for index, reference, chunks in zip(spoken, found.references, found.alignments, strict=True):
        row = dict.fromkeys(("equal", "substitute", "delete", "insert"), 0)
        for chunk in chunks:
            length = chunk.ref_end_idx - chunk.ref_start_idx
            row[chunk.type] += length or chunk.hyp_end_idx - chunk.hyp_start_idx
        counts[index] = (len(reference), *(row[kind] for kind in _KINDS))
    for index in set(range(len(refs))).difference(spoken):
        counts[index, 3] = len(units_of(hyps[index]))
    return counts
