"""The tasks, recognition (``asr``) and translation (``st``), with all in which they differ.

No other module knows a task by its name: what holds for one task only is a field here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lors.errors import UsageError, unknown_name

SPLITS = ("train", "dev", "test")
TARGET = "en"
"""Language that speech is translated into (Common Voice code)."""
Text = TypeVar("Text")


@dataclass(frozen=True)
class Metric:
    """A score of a task.

    Attributes:
        key: its name in a score file.
        name: its name in print.
        lower_is_better: whether it counts errors.
    """

    key: str
    name: str
    lower_is_better: bool


@dataclass(frozen=True)
class SpeechTask:
    """A task: what is made of speech.

    Attributes:
        name: ``asr`` or ``st``, as in options and file names.
        title: its name in print.
        metrics: the metric that the task is judged by, and the one that is reported beside it.
        target: language of the text that is made; None for that of the speech.
    """

    name: str
    title: str
    metrics: tuple[Metric, Metric]
    target: str | None = None

    @property
    def metric(self) -> Metric:
        """The metric that the task is judged by."""
        return self.metrics[0]

    @property
    def reference_file(self) -> str:
        """The file of a data directory with the reference texts."""
        return "text" if self.target is None else f"text.{self.target}"

    def reference(self, transcript: Text, translations: Mapping[str, Text]) -> Text | None:
        """The reference text among what a corpus says of one utterance; None if it has none."""
        return transcript if self.target is None else translations.get(self.target)

    def text_language(self, lang: str) -> str:
        """Language of the text that is made of speech in `lang`."""
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
"""All tasks, in the order of reports."""


def task_called(name: str) -> SpeechTask:
    """The task of a name.

    Raises:
        UsageError: there is none; the names are listed.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


@dataclass(frozen=True)
class Pair:
    """A language (Common Voice code) and a task (a name in ``TASKS``)."""

    lang: str
    task: str

    @classmethod
    def parse(cls, name: str) -> Pair:
        """Read ``de_asr``.

        Raises:
            UsageError: the name is not of that form.
        """
        lang, _, task = name.rpartition("_")
        if not lang or task not in TASKS:
            raise UsageError("not a language-task pair", expected="e.g. de_asr or de_st", got=name)
        return cls(lang, task)

    @property
    def speech_task(self) -> SpeechTask:
        """The task itself."""
        return task_called(self.task)

    def __str__(self) -> str:
        return f"{self.lang}_{self.task}"


def pairs_of(langs: Iterable[str], tasks: Sequence[str]) -> list[Pair]:
    """All languages with all tasks; job k of the experts trains the k-th."""
    return [Pair(lang, task) for lang in langs for task in tasks]
