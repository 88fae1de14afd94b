"""Scores of recognition and translation, and the measures derived from them."""

from lors.score.asr import score_asr
from lors.score.normalised import normalised_performance
from lors.score.pairing import match_utterances
from lors.score.result import ErrorRates, Score, TranslationScores
from lors.score.scorers import SCORERS, Scorer, score_pair, without_words
from lors.score.st import score_st

__all__ = [
    "SCORERS",
    "ErrorRates",
    "Score",
    "Scorer",
    "TranslationScores",
    "match_utterances",
    "normalised_performance",
    "score_asr",
    "score_pair",
    "score_st",
    "without_words",
]
