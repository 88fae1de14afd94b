"""Scores against outside oracles: jiwer, sacreBLEU, Whisper's own import, and plain arithmetic."""

import math
import random

import jiwer
import pytest
import sacrebleu

from lors.score import score_asr, score_st
from lors.score.text import get_normaliser

GERMAN = {
    "u1": ("Guten Morgen, wie geht's?", "guten morgen wie gehts"),
    "u2": ("Das kostet 3,50 Euro.", "das kostet 350 euro"),
    "u3": ("null", ""),
    "u4": ("Er sagte: „Ja“ – und ging.", "er sagte ja und und ging"),
    "u5": ("Ärger!", "ärger"),
}


def sides(cases):
    return {k: v[0] for k, v in cases.items()}, {k: v[1] for k, v in cases.items()}


def edit_distance(reference, hypothesis):
    """Levenshtein distance, the textbook recurrence."""
    previous = list(range(len(hypothesis) + 1))
    for i, r in enumerate(reference, 1):
        current = [i]
        for j, h in enumerate(hypothesis, 1):
            substituted = previous[j - 1] + (r != h)
            current.append(min(previous[j] + 1, current[j - 1] + 1, substituted))
        previous = current
    return previous[-1]


def test_german_by_hand():
    # guten morgen wie geht s      | guten morgen wie gehts    : S 1, D 1
    # das kostet 3 50 euro         | das kostet 350 euro       : S 1, D 1
    # null                         |                           : D 1
    # er sagte ja und ging         | er sagte ja und und ging  : I 1
    # ärger                        | ärger
    result = score_asr(*sides(GERMAN), "de")
    assert (result.substitutions, result.deletions, result.insertions) == (2, 3, 1)
    assert result.ref_words == 17
    assert result.wer == pytest.approx(100 * 6 / 17, abs=1e-12)


def test_rates_equal_jiwer_on_the_normalised_text():
    refs, hyps = sides(GERMAN)
    normalise = get_normaliser("de")
    reference = [normalise(refs[key]) for key in refs]
    hypothesis = [normalise(hyps[key]) for key in refs]
    result = score_asr(refs, hyps, "de")
    assert result.wer == pytest.approx(100 * jiwer.wer(reference, hypothesis), abs=1e-12)
    assert result.cer == pytest.approx(100 * jiwer.cer(reference, hypothesis), abs=1e-12)


def test_rates_equal_textbook_edit_distance_with_empty_sides_among_them():
    rng = random.Random(7)
    for _ in range(30):
        cases = {
            f"u{i}": tuple(
                " ".join(rng.choices(["ab", "cd", "e", "f"], k=rng.randint(0, 6))) for _ in "rh"
            )
            for i in range(8)
        }
        cases["full"] = ("ab cd", "ab")
        result = score_asr(*sides(cases), "de")
        errors = sum(edit_distance(r.split(), h.split()) for r, h in cases.values())
        words = sum(len(r.split()) for r, _ in cases.values())
        letter_errors = sum(edit_distance(r, h) for r, h in cases.values())
        letters = sum(len(r) for r, _ in cases.values())
        assert result.wer == pytest.approx(100 * errors / words, abs=1e-9)
        assert result.cer == pytest.approx(100 * letter_errors / letters, abs=1e-9)
        parts = (result.substitutions, result.deletions, result.insertions)
        assert (sum(parts), result.ref_words) == (errors, words)


@pytest.mark.parametrize(
    "lang, name, arguments",
    [
        ("en", "EnglishTextNormalizer", {}),
        ("fr", "BasicTextNormalizer", {}),
        ("ja", "BasicTextNormalizer", {"split_letters": True}),
    ],
)
def test_normalisers_are_those_an_ordinary_import_of_whisper_gives(lang, name, arguments):
    from whisper import normalizers

    oracle = getattr(normalizers, name)(**arguments)
    for raw in ("Mr. O'Neil's 3rd café, eh?", "Ça coûte 12 € (environ)", "東京は、いい。", "don't"):
        assert get_normaliser(lang, "whisper")(raw) == " ".join(oracle(raw).split())


ENGLISH = {
    "u1": ("The cat sat on a mat", "The cat sat on the mat"),
    "u2": ("I'm 3.5 years old, he said.", "I am 3.5 years old he said ."),
    "u3": ("null", ""),
    "u4": ('Where is the "station"?', "Where's the station?"),
}


def test_bleu_by_hand():
    # 1- to 4-gram precisions 5/6, 3/5, 2/4, 1/3; equal lengths, so no brevity penalty
    result = score_st({"u": ENGLISH["u1"][0]}, {"u": ENGLISH["u1"][1]}, "en")
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert result.bleu == pytest.approx(expected, abs=1e-9)


def test_brevity_penalty_by_hand():
    result = score_st({"u": "a b c d e f g h"}, {"u": "a b c d e f"}, "en")
    assert result.bleu == pytest.approx(100 * math.exp(1 - 8 / 6), abs=1e-9)


def test_chrf_by_hand():
    # Character n-grams up to order 3 exist: orders above the length of both are left out.
    # "abc" | "abd": precision = recall: 2/3, 1/2, 0 -> mean (2/3 + 1/2 + 0) / 3 for P = R = F
    result = score_st({"u": "abc"}, {"u": "abd"}, "en")
    assert result.chrf == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3, abs=1e-9)


@pytest.mark.parametrize("lang, tokenizer", [("en", "13a"), ("de", "13a"), ("zh-CN", "zh")])
def test_translation_scores_equal_sacrebleus_own_functions(lang, tokenizer):
    refs, hyps = sides(ENGLISH)
    reference, hypothesis = [refs[k] for k in refs], [hyps[k] for k in refs]
    result = score_st(refs, hyps, lang)
    bleu = sacrebleu.corpus_bleu(hypothesis, [reference], tokenize=tokenizer)
    chrf = sacrebleu.corpus_chrf(hypothesis, [reference])
    assert result.bleu == pytest.approx(bleu.score, abs=1e-9)
    assert result.chrf == pytest.approx(chrf.score, abs=1e-9)
    version = sacrebleu.__version__
    assert result.bleu_signature == (
        f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:{version}"
    )
    assert result.chrf_signature == (
        f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    )
