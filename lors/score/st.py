"""BLEU and chrF of translation, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lors.errors import LorsError, pip_install
from lors.score.pairing import OTHERS, match_utterances
from lors.score.result import TranslationScores
from lors.score.text import base_language
from lors.score.utterances import TranslatedUtterances
from lors.score.versions import installed_version
from lors.score.words import CHARACTER_LANGUAGES
from lors.tasks import ST

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

TOKENIZERS = {
    **dict.fromkeys(CHARACTER_LANGUAGES, "char"),  # 13a would take a sentence of Thai as one word
    **{"zh": "zh", "yue": "zh", "ja": "ja-mecab"},
}
"""Target language -> sacreBLEU's tokenizer; every other language has 13a."""


def score_st(refs: Mapping[str, str], hyps: Mapping[str, str], tgt_lang: str) -> TranslationScores:
    """Compute corpus BLEU and chrF2 of cased, raw text against one reference each.

    Arguments and errors are those of :func:`translated_utterances`.
    """
    return translation_scores(translated_utterances(refs, hyps, tgt_lang), tgt_lang)


def translated_utterances(
    refs: Mapping[str, str], hyps: Mapping[str, str], tgt_lang: str
) -> TranslatedUtterances:
    """Count the n-grams of each utterance, on cased, raw text against one reference each.

    Empty hypotheses and empty references stay in the test set.

    Args:
        refs: utterance id -> reference translation.
        hyps: utterance id -> translation by the model; may be empty.
        tgt_lang: code of the target language; it chooses sacreBLEU's tokenizer.

    Raises:
        LorsError: utterance ids differ, all references are empty, or the tokenizer of
            `tgt_lang` is not installed.
    """
    import numpy as np

    ref_texts, hyp_texts = match_utterances(refs, hyps)
    if not any(text.strip() for text in ref_texts):
        got = f"{len(ref_texts)} references"
        raise LorsError("every reference translation is empty", got=got, hint=OTHERS)
    # These are the numbers that sacreBLEU's own tests of significance resample.
    statistics = [
        np.array(metric._extract_corpus_statistics(hyp_texts, [ref_texts]), dtype=np.int64)
        for metric in _metrics(tgt_lang)
    ]
    references, hypotheses = (
        tuple(" ".join(text.split()) for text in side) for side in (ref_texts, hyp_texts)
    )
    return TranslatedUtterances(tuple(sorted(refs)), references, hypotheses, np.hstack(statistics))


def translation_scores(utterances: TranslatedUtterances, tgt_lang: str) -> TranslationScores:
    """Return the scores of utterances that were counted for this target language."""
    bleu, chrf = _metrics(tgt_lang)
    return TranslationScores(
        bleu=utterances.score(ST.metrics[0]),
        chrf=utterances.score(ST.metrics[1]),
        bleu_signature=_signature(bleu),
        chrf_signature=_signature(chrf),
        utterances=len(utterances.ids),
        empty_refs=utterances.references.count(""),
        empty_hyps=utterances.hypotheses.count(""),
        sacrebleu_version=installed_version("sacrebleu"),
    )


def _metrics(tgt_lang: str) -> tuple[BLEU, CHRF]:
    from sacrebleu.metrics import BLEU, CHRF

    tokenizer = TOKENIZERS.get(base_language(tgt_lang), "13a")
    try:
        return BLEU(tokenize=tokenizer), CHRF()
    except RuntimeError as error:  # sacreBLEU's error for a missing tokenizer package
        raise LorsError(
            f"sacreBLEU cannot tokenize target language '{tgt_lang}' with '{tokenizer}'",
            got=" ".join(str(error).split()),
            hint=pip_install(f"'sacrebleu[{base_language(tgt_lang)}]'"),
        ) from error


def _signature(metric: BLEU | CHRF) -> str:
    metric.num_refs = 1
    return str(metric.get_signature())
