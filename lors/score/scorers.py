"""The scorer of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lors.score.asr import score_asr
from lors.score.result import ErrorRates, Score, TranslationScores
from lors.score.st import score_st
from lors.score.text import LORS, normaliser_versions
from lors.score.versions import installed_version
from lors.tasks import Pair


@dataclass(frozen=True)
class Scorer:
    """Scoring of a task.

    Attributes:
        function: (references, hypotheses, language of the text) -> scores; if `normalises`, with
            the choice of the normaliser as a fourth argument.
        result: class of the scores.
        package: name of the Python package that computes the scores.
        normalises: whether the text is normalised before scoring.
    """

    function: Callable[..., Score]
    result: type[Score]
    package: str
    normalises: bool

    def score(
        self,
        refs: Mapping[str, str],
        hyps: Mapping[str, str],
        lang: str,
        normaliser: str = LORS,
    ) -> Score:
        """Score hypotheses.

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
        return self.function(refs, hyps, lang, *options)

    def settings(self, normaliser: str = LORS) -> dict[str, Any]:
        """Return what the scores depend on besides the text, without importing a package."""
        settings: dict[str, Any] = {self.package: installed_version(self.package)}
        if self.normalises:
            settings |= {"normaliser": normaliser, "normalisers": normaliser_versions()}
        return settings


SCORERS: Mapping[str, Scorer] = {
    scorer.result.task.name: scorer
    for scorer in (
        Scorer(score_asr, ErrorRates, "jiwer", normalises=True),
        Scorer(score_st, TranslationScores, "sacrebleu", normalises=False),
    )
}
"""Name of a task -> its scorer."""


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
    return SCORERS[pair.task].score(refs, hyps, language, normaliser)
