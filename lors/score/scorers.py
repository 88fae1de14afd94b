"""The scorer of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lors.score.asr import error_rates, recognised_utterances
from lors.score.result import ErrorRates, Score, TranslationScores
from lors.score.st import translated_utterances, translation_scores
from lors.score.text import LORS, get_normaliser, normaliser_versions
from lors.score.utterances import UTTERANCES, Utterances
from lors.score.versions import installed_version
from lors.tasks import Pair


@dataclass(frozen=True)
class Scorer:
    """Scoring of a task.

    Attributes:
        count: (references, hypotheses, language of the text) -> utterances; if `normalises`, with
            the choice of the normaliser as a fourth argument.
        sum_up: (utterances, language of the text) -> scores; with the same last argument.
        result: class of the scores.
        package: name of the Python package that computes the scores.
        normalises: whether the text is normalised before scoring.
    """

    count: Callable[..., Utterances]
    sum_up: Callable[..., Score]
    result: type[Score]
    package: str
    normalises: bool

    def score(
        self,
        refs: Mapping[str, str],
        hyps: Mapping[str, str],
        lang: str,
        normaliser: str = LORS,
    ) -> tuple[Score, Utterances]:
        """Score hypotheses; return the scores and the counts of each utterance.

        Args:
            refs: utterance id -> reference text.
            hyps: utterance id -> hypothesis.
            lang: Common Voice code of the language of the text.
            normaliser: one of :data:`lors.score.text.NORMALISERS`; without effect on tasks that
                are scored on raw text.

        Raises:
            LorsError: they cannot be scored.
        """
        options = (normaliser,) if self.normalises else ()
        utterances = self.count(refs, hyps, lang, *options)
        return self.sum_up(utterances, lang, *options), utterances

    def settings(self, normaliser: str = LORS) -> dict[str, Any]:
        """Return what the scores depend on besides the text, without importing a package."""
        settings: dict[str, Any] = {
            self.package: installed_version(self.package),
            "columns": [*UTTERANCES[self.result.task.name].head],
        }
        if self.normalises:
            settings |= {"normaliser": normaliser, "normalisers": normaliser_versions()}
        return settings


SCORERS: Mapping[str, Scorer] = {
    scorer.result.task.name: scorer
    for scorer in (
        Scorer(recognised_utterances, error_rates, ErrorRates, "jiwer", normalises=True),
        Scorer(
            translated_utterances,
            translation_scores,
            TranslationScores,
            "sacrebleu",
            normalises=False,
        ),
    )
}
"""Name of a task -> its scorer."""


def without_words(pair: Pair, refs: Mapping[str, str]) -> set[str]:
    """Return the utterances whose reference has no word: a score of these alone is undefined.

    Args:
        pair: spoken language and task.
        refs: utterance id -> reference text.

    Raises:
        LorsError: the normaliser of the language is not installed.
    """
    language = pair.speech_task.text_language(pair.lang)
    words = get_normaliser(language) if SCORERS[pair.task].normalises else str.strip
    return {name for name, text in refs.items() if not words(text)}


def score_pair(
    pair: Pair, refs: Mapping[str, str], hyps: Mapping[str, str], normaliser: str = LORS
) -> Score:
    """Score the hypotheses of one language and task.

    Args:
        pair: spoken language and task.
        refs: utterance id -> reference text.
        hyps: utterance id -> hypothesis.
        normaliser: one of :data:`lors.score.text.NORMALISERS`.

    Raises:
        LorsError: the scorer of the task cannot score them.
    """
    language = pair.speech_task.text_language(pair.lang)
    return SCORERS[pair.task].score(refs, hyps, language, normaliser)[0]
