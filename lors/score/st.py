"""BLEU and chrF of translation, by sacreBLEU."""

from __future__ import annotations

from collections.abc import Mapping

from lors.errors import LorsError
from lors.score.pairing import match_utterances
from lors.score.result import TranslationScores
from lors.score.text import base_language
from lors.score.versions import installed_version
from lors.score.words import CHARACTER_LANGUAGES

TOKENIZERS = {
    **dict.fromkeys(CHARACTER_LANGUAGES, "char"),  # 13a would take a sentence of Thai as one word
    **{"zh": "zh", "yue": "zh", "ja": "ja-mecab"},
}
"""Target language -> sacreBLEU's tokenizer; every other language has 13a."""


def score_st(refs: Mapping[str, str], hyps: Mapping[str, str], tgt_lang: str) -> TranslationScores:
    """Compute corpus BLEU and chrF2 of cased, raw text against one reference each.

    Empty hypotheses and empty references stay in the test set and are counted.

    Args:
        refs: utterance id -> reference translation.
        hyps: utterance id -> translation by the model; may be empty.
        tgt_lang: code of the target language; it chooses sacreBLEU's tokenizer.

    Raises:
        LorsError: utterance ids differ, all references are empty, or the tokenizer of
            `tgt_lang` is not installed.
    """
    from sacrebleu.metrics import BLEU, CHRF

    ref_texts, hyp_texts = match_utterances(refs, hyps)
    empty_refs = sum(not text.strip() for text in ref_texts)
    if empty_refs == len(ref_texts):
        raise LorsError("every reference translation is empty", got=f"{empty_refs} references")
    tokenizer = TOKENIZERS.get(base_language(tgt_lang), "13a")
    try:
        bleu = BLEU(tokenize=tokenizer)
    except RuntimeError as error:  # sacreBLEU's error for a missing tokenizer package
        raise LorsError(
            f"sacreBLEU cannot tokenize target language '{tgt_lang}' with '{tokenizer}'",
            got=" ".join(str(error).split()),
            hint=f"pip install 'sacrebleu[{base_language(tgt_lang)}]'",
        ) from error
    chrf = CHRF()
    return TranslationScores(
        bleu=bleu.corpus_score(hyp_texts, [ref_texts]).score,
        chrf=chrf.corpus_score(hyp_texts, [ref_texts]).score,
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        utterances=len(ref_texts),
        empty_refs=empty_refs,
        empty_hyps=sum(not text.strip() for text in hyp_texts),
        sacrebleu_version=installed_version("sacrebleu"),
    )
