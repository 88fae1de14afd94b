"""Word and character error rate of recognition."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from lors.errors import LorsError
from lors.score.pairing import match_utterances
from lors.score.text import get_normaliser


def score_asr(refs: Mapping[str, str], hyps: Mapping[str, str], lang: str) -> dict[str, Any]:
    """Error rates over a whole test set: all errors over all reference units.

    Reference and hypothesis are normalised alike (:mod:`lors.score.text`). A reference that
    normalises to nothing stays in: whatever was recognised there counts as insertions. jiwer is
    not asked about those, because some of its versions refuse an empty reference.

    Args:
        refs: utterance id -> reference transcript, as in the corpus.
        hyps: utterance id -> recognised text; may be empty.
        lang: Common Voice code of the language spoken.

    Returns:
        ``wer`` and ``cer`` in percent; ``substitutions``, ``deletions``, ``insertions`` and
        ``ref_words`` (the counts behind ``wer``); ``unit`` (``word``; ``character`` for Chinese
        and Japanese, where ``wer`` is over characters and therefore equals ``cer``);
        ``utterances``, ``empty_refs``, ``empty_hyps`` (after normalisation); ``normaliser`` and
        the versions of the packages that made it. ``cer`` of other languages counts the single
        spaces between words as characters.

    Raises:
        LorsError: utterance ids differ, or all references are empty after normalisation.
    """
    import jiwer

    normalise = get_normaliser(lang)
    ref_texts, hyp_texts = match_utterances(refs, hyps)
    pairs = [(normalise(r), normalise(h)) for r, h in zip(ref_texts, hyp_texts, strict=True)]
    scored = [(r, h) for r, h in pairs if r]
    if not scored:
        raise LorsError(
            "every reference is empty after normalisation: the error rate is undefined",
            expected=f"transcripts of language '{lang}'",
            got=f"{len(pairs)} references without a {normalise.unit}",
        )
    spoken, recognised = (list(side) for side in zip(*scored, strict=True))
    inserted = [h for r, h in pairs if not r]

    words = jiwer.process_words(spoken, recognised)
    insertions = words.insertions + sum(len(h.split()) for h in inserted)
    ref_words = words.hits + words.substitutions + words.deletions
    wer = 100.0 * (words.substitutions + words.deletions + insertions) / ref_words
    if normalise.unit == "character":
        cer = wer
    else:
        letters = jiwer.process_characters(spoken, recognised)
        errors = letters.substitutions + letters.deletions + letters.insertions
        errors += sum(len(h) for h in inserted)
        cer = 100.0 * errors / (letters.hits + letters.substitutions + letters.deletions)
    return {
        "wer": wer,
        "cer": cer,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": insertions,
        "ref_words": ref_words,
        "unit": normalise.unit,
        "utterances": len(pairs),
        "empty_refs": len(inserted),
        "empty_hyps": sum(not h for _, h in pairs),
        "normaliser": normalise.name,
        "openai_whisper_version": normalise.version,
        "jiwer_version": importlib.metadata.version("jiwer"),
    }
