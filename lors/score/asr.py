"""Word and character error rate of recognition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lors.errors import LorsError
from lors.score.pairing import match_utterances
from lors.score.result import ErrorRates
from lors.score.text import CHARACTER, LORS, Normaliser, get_normaliser
from lors.score.versions import installed_version


def score_asr(
    refs: Mapping[str, str], hyps: Mapping[str, str], lang: str, normaliser: str = LORS
) -> ErrorRates:
    """Compute error rates over a whole test set: all errors over all reference units.

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
    normalise = get_normaliser(lang, normaliser)
    ref_texts, hyp_texts = match_utterances(refs, hyps)
    pairs = [(normalise(r), normalise(h)) for r, h in zip(ref_texts, hyp_texts, strict=True)]
    _check_references(pairs, normalise, lang)
    words = _word_errors(pairs)
    letters = words if normalise.unit == CHARACTER else _character_errors(pairs)
    return ErrorRates(
        wer=words.rate,
        cer=letters.rate,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        ref_words=words.reference,
        unit=normalise.unit,
        utterances=len(pairs),
        empty_refs=sum(not r for r, _ in pairs),
        empty_hyps=sum(not h for _, h in pairs),
        normaliser=normalise.name,
        normaliser_version=normalise.version,
        jiwer_version=installed_version("jiwer"),
    )


def _check_references(pairs: Sequence[tuple[str, str]], normalise: Normaliser, lang: str) -> None:
    if not any(reference for reference, _ in pairs):
        raise LorsError(
            "every reference is empty after normalisation: the error rate is undefined",
            expected=f"transcripts of language '{lang}'",
            got=f"{len(pairs)} references without a {normalise.unit}",
        )


@dataclass(frozen=True)
class _Errors:
    """Numbers of errors and of reference units."""

    substitutions: int
    deletions: int
    insertions: int
    reference: int

    @property
    def rate(self) -> float:
        """Error rate in percent."""
        return 100.0 * (self.substitutions + self.deletions + self.insertions) / self.reference


def _word_errors(pairs: Sequence[tuple[str, str]]) -> _Errors:
    import jiwer

    inserted = sum(len(h.split()) for r, h in pairs if not r)
    return _errors(jiwer.process_words(*_with_reference(pairs)), inserted)


def _character_errors(pairs: Sequence[tuple[str, str]]) -> _Errors:
    import jiwer

    inserted = sum(len(h) for r, h in pairs if not r)
    return _errors(jiwer.process_characters(*_with_reference(pairs)), inserted)


def _with_reference(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Leave out empty references, which some versions of jiwer refuse, and their hypotheses."""
    kept = [(r, h) for r, h in pairs if r]
    return [r for r, _ in kept], [h for _, h in kept]


def _errors(alignment, inserted: int) -> _Errors:
    """Counts of a jiwer alignment, with `inserted` units that it was not given."""
    found = alignment.hits + alignment.substitutions + alignment.deletions
    insertions = alignment.insertions + inserted
    return _Errors(alignment.substitutions, alignment.deletions, insertions, found)
