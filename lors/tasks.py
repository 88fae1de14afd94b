"""The tasks, recognition (``asr``) and translation (``st``), and the facts in which they differ.

Other modules do not test for the name of a task: a fact that holds for one task is a field here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lors.errors import UsageError, unknown_name

SPLITS = ("train", "dev", "test")
TARGET = "en"
"""Target language of translation (Common Voice code)."""
PRIVATE = "-x-"
"""Separates a language and a speaker in a code such as ``de-x-anna``, as BCP 47 has it for private
use: the data directories and models of one speaker have such a code in place of the language."""
SPEAKERS_FILE = "speakers"
"""File with such codes, one a line, beside the data directories of the speakers."""
Text = TypeVar("Text")


@dataclass(frozen=True)
class Metric:
    """A score of a task.

    Attributes:
        key: name in score files.
        name: name in tables and figures.
        lower_is_better: whether the score is an error rate.
    """

    key: str
    name: str
    lower_is_better: bool

    def gain(self, start: float, reached: float) -> float:
        """Return how much better `reached` is than `start`, in points; negative if it is worse."""
        return start - reached if self.lower_is_better else reached - start


@dataclass(frozen=True)
class SpeechTask:
    """A task that turns speech into text.

    Attributes:
        name: ``asr`` or ``st``, as in options and file names.
        title: name in reports.
        metrics: the main metric, and a second one that is reported with it.
        target: language of the output text; None for the language of the speech.
    """

    name: str
    title: str
    metrics: tuple[Metric, Metric]
    target: str | None = None

    @property
    def metric(self) -> Metric:
        """The main metric of the task."""
        return self.metrics[0]

    @property
    def reference_file(self) -> str:
        """Name of the file in a data dir that holds the reference texts."""
        return "text" if self.target is None else f"text.{self.target}"

    def reference(self, transcript: Text, translations: Mapping[str, Text]) -> Text | None:
        """Return the reference of one utterance; None if the corpus has none for this task.

        Args:
            transcript: the text of the speech.
            translations: target language -> translation.
        """
        return transcript if self.target is None else translations.get(self.target)

    def text_language(self, lang: str) -> str:
        """Return the language of the output text for speech in `lang`."""
        return lang if self.target is None else self.target


ASR = SpeechTask(
    "asr", "Speech recognition", (Metric("wer", "WER", True), Metric("cer", "CER", True))
)
ST = SpeechTask(
    "st",
    "Speech translation",
    (Metric("bleu", "BLEU", False), Metric("chrf", "chrF", False)),
    target=TARGET,
)
TASKS: Mapping[str, SpeechTask] = {task.name: task for task in (ASR, ST)}
"""All tasks under their names, in the order of reports."""


def task_called(name: str) -> SpeechTask:
    """Return the task with this name.

    Raises:
        UsageError: no task has this name; the message lists all names.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def of_speaker(lang: str, speaker: str) -> str:
    """Return the code of a language and a speaker: ``de-x-anna``."""
    return f"{lang}{PRIVATE}{speaker}"


def spoken(lang: str) -> str:
    """Return the language of a code, which may name a speaker: ``de`` for ``de-x-anna``."""
    return lang.partition(PRIVATE)[0]


@dataclass(frozen=True)
class Pair:
    """A language (Common Voice code) and a task (a name in ``TASKS``)."""

    lang: str
    task: str

    @classmethod
    def parse(cls, name: str) -> Pair:
        """Return the pair with a name such as ``de_asr``.

        Raises:
            UsageError: the name does not have this form.
        """
        lang, _, task = name.rpartition("_")
        if not lang or task not in TASKS:
            raise UsageError("not a language-task pair", expected="e.g. de_asr or de_st", got=name)
        return cls(lang, task)

    @property
    def speech_task(self) -> SpeechTask:
        """The task with this name."""
        return task_called(self.task)

    def __str__(self) -> str:
        return f"{self.lang}_{self.task}"


def pairs_of(langs: Iterable[str], tasks: Sequence[str]) -> list[Pair]:
    """Return all pairs of a language and a task; job k of the experts trains pair k.

    A language is not translated into itself: English has no pair with translation.
    """
    targets = {task.name: task.target for task in TASKS.values()}
    both = ((lang, task) for lang in langs for task in tasks)
    return [Pair(lang, task) for lang, task in both if targets.get(task) != spoken(lang)]
