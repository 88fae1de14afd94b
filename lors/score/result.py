"""Typed scores of one test set, as a score file holds them."""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lors.errors import LorsError
from lors.tasks import ASR, ST, Metric, SpeechTask

_SIZE = {"role": "size of the test set"}
"""Metadata of a field that must be equal in all scores of one test set."""
_SETTING = {"role": "setting of the scorer"}
"""Metadata of a field that must be equal in all scores that are compared."""


def is_number(value: Any) -> bool:
    """Check whether a value read from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # math.isfinite() fails for an integer beyond that


def is_count(value: Any) -> bool:
    """Check whether a value read from JSON is an integer that percentages can be made of."""
    return type(value) is int and abs(value) <= sys.maxsize


_VALID: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    float: (is_number, "is not a number"),
    int: (is_count, "is not an integer of 64 bits"),
    int | None: (lambda value: value is None or is_count(value), "is not an integer of 64 bits"),
    str: (lambda value: isinstance(value, str) and value != "", "is missing"),
}

_ABOVE_ZERO = frozenset({"utterances", "ref_words"})
"""Fields that percentages are of."""


@functools.cache
def _field_types(score_class: type) -> Mapping[str, type]:
    return typing.get_type_hints(score_class)


@dataclass(frozen=True)
class Score(ABC):
    """Scores of one test set, with the settings that they were computed with.

    The order of the fields is the order of the keys in a score file.
    """

    task: ClassVar[SpeechTask]

    def value(self, metric: Metric) -> float:
        """Return the score of a metric of the task."""
        return getattr(self, metric.key)

    @property
    def sizes(self) -> dict[str, int]:
        """Counts that depend on the test set only."""
        return self._fields_with(_SIZE)

    @property
    def settings(self) -> dict[str, str]:
        """Settings that make two scores comparable."""
        return self._fields_with(_SETTING)

    @property
    @abstractmethod
    def description(self) -> str:
        """One sentence without its full stop: how the scores are computed."""

    def _fields_with(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.metadata == metadata}

    def to_json(self) -> dict[str, Any]:
        """Return the content of a score file, without the names of task, language and files."""
        return dataclasses.asdict(self)

    @classmethod
    def problems(cls, content: Any) -> list[str]:
        """List everything that makes `content` unusable as such a score; other keys are ignored."""
        if not isinstance(content, Mapping):
            return ["not a JSON object"]
        content = cls._with_current_keys(content)
        types = _field_types(cls)
        found = []
        for name in (f.name for f in dataclasses.fields(cls)):
            is_valid, problem = _VALID[types[name]]
            if not is_valid(content.get(name)):
                found.append(f"'{name}' {problem}")
        for name in sorted(_ABOVE_ZERO & content.keys()):
            if type(content[name]) is int and content[name] < 1:
                found.append(f"'{name}' is not above 0")
        if content.get("task", cls.task.name) != cls.task.name:
            found.append(f"is a score of task '{content['task']}'")
        return found

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Make the score of the content of a score file.

        Raises:
            LorsError: values are missing or of a wrong type; all of them are listed.
        """
        if problems := cls.problems(content):
            raise LorsError(f"not a score of task '{cls.task.name}'", got=problems)
        content = cls._with_current_keys(content)
        return cls(**{f.name: content.get(f.name) for f in dataclasses.fields(cls)})

    @classmethod
    def _with_current_keys(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the content of a score file of any version of LoRS with the keys of this one."""
        return content


@dataclass(frozen=True)
class ErrorRates(Score):
    """Error rates of recognition.

    Attributes:
        wer: word error rate in percent.
        cer: character error rate in percent; single spaces between words count as characters.
        substitutions: number of substituted units.
        deletions: number of deleted units.
        insertions: number of inserted units.
        ref_words: number of units in the references.
        unit: unit of `wer` and the counts, ``word`` or ``character`` (languages without spaces
            between words, where `wer` equals `cer`).
        utterances: number of utterances.
        empty_refs: number of references that are empty after normalisation.
        empty_hyps: number of hypotheses that are empty after normalisation.
        normaliser: name of the text normaliser.
        normaliser_version: package or project with the normaliser, and the version.
        jiwer_version: version of the package that counts errors.
        sentence_errors: number of utterances with an error; None in a score file from before it
            was counted.
    """

    task: ClassVar[SpeechTask] = ASR

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    ref_words: int = field(metadata=_SIZE)
    unit: str = field(metadata=_SETTING)
    utterances: int = field(metadata=_SIZE)
    empty_refs: int = field(metadata=_SIZE)
    empty_hyps: int
    normaliser: str = field(metadata=_SETTING)
    normaliser_version: str = field(metadata=_SETTING)
    jiwer_version: str = field(metadata=_SETTING)
    sentence_errors: int | None = None

    @property
    def description(self) -> str:
        text = (
            "WER and CER: hypothesis and reference normalised alike by "
            f"{self.normaliser} ({self.normaliser_version}), "
            f"errors counted by jiwer {self.jiwer_version}"
        )
        if self.unit == "character":
            text += "; words are not separated, so both rates are over characters"
        return text

    @classmethod
    def _with_current_keys(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        if (version := content.get("openai_whisper_version")) is None:
            return content
        # Before LoRS had a normaliser of its own.
        return {"normaliser_version": f"openai-whisper {version}", **content}


@dataclass(frozen=True)
class TranslationScores(Score):
    """Scores of translation.

    Attributes:
        bleu: corpus BLEU, 0 to 100.
        chrf: corpus chrF2, 0 to 100.
        bleu_signature: sacreBLEU's signature of `bleu`.
        chrf_signature: sacreBLEU's signature of `chrf`.
        utterances: number of utterances.
        empty_refs: number of empty references.
        empty_hyps: number of empty hypotheses.
        sacrebleu_version: version of sacreBLEU; the signatures have it too.
    """

    task: ClassVar[SpeechTask] = ST

    bleu: float
    chrf: float
    bleu_signature: str = field(metadata=_SETTING)
    chrf_signature: str = field(metadata=_SETTING)
    utterances: int = field(metadata=_SIZE)
    empty_refs: int = field(metadata=_SIZE)
    empty_hyps: int
    sacrebleu_version: str

    @property
    def description(self) -> str:
        return f"sacreBLEU signatures: BLEU {self.bleu_signature}, chrF {self.chrf_signature}"
