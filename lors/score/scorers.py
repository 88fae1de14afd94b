"""The scorer of each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lors.score.asr import score_asr
from lors.score.result import ErrorRates, Score, TranslationScores
from lors.score.st import score_st
from lors.score.versions import installed_version
from lors.tasks import Pair


@dataclass(frozen=True)
class Scorer:
    """Scoring of a task.

    Attributes:
        function: (references, hypotheses, language of the text) -> scores.
        result: class of the scores.
        packages: names of the Python packages that the scores depend on.
    """

    function: Callable[[Mapping[str, str], Mapping[str, str], str], Score]
    result: type[Score]
    packages: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """Return the installed versions of `packages`, without importing them."""
        return {name: installed_version(name) for name in self.packages}


SCORERS: Mapping[str, Scorer] = {
    scorer.result.task.name: scorer
    for scorer in (
        Scorer(score_asr, ErrorRates, ("jiwer", "openai-whisper")),
        Scorer(score_st, TranslationScores, ("sacrebleu",)),
    )
}
"""Name of a task -> its scorer."""


def score_pair(pair: Pair, refs: Mapping[str, str], hyps: Mapping[str, str]) -> Score:
    """Score the hypotheses of one language and task.

    Args:
        pair: spoken language and task.
        refs: utterance id -> reference text.
        hyps: utterance id -> hypothesis.

    Raises:
        LorsError: the scorer of the task cannot score them.
    """
    return SCORERS[pair.task].function(refs, hyps, pair.speech_task.text_language(pair.lang))
