"""Prompts and inference options of ESPnet's S2T models.

One model serves many languages and tasks; the prompt ``<sos><lang><task><notimestamps>`` selects
the language and the task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from lors.config import Range
from lors.errors import unknown_name
from lors.models.family import InferenceOptions
from lors.tasks import TASKS, Pair, spoken, task_called

ISO_639_3 = {
    "ar": "ara",
    "ca": "cat",
    "cy": "cym",
    "de": "deu",
    "en": "eng",
    "es": "spa",
    "et": "est",
    "fa": "fas",
    "fil": "fil",
    "fr": "fra",
    "id": "ind",
    "it": "ita",
    "ja": "jpn",
    "jv": "jav",
    "lv": "lav",
    "mn": "mon",
    "nb": "nob",
    "nb-NO": "nob",
    "nl": "nld",
    "nn-NO": "nno",
    "pt": "por",
    "ru": "rus",
    "sl": "slv",
    "sv-SE": "swe",
    "ta": "tam",
    "tr": "tur",
    "zh-CN": "zho",
}
"""Common Voice's language codes -> ISO 639-3, the codes in ESPnet's language symbols."""
NO_TIMESTAMPS = "<notimestamps>"


def language_symbol(lang: str) -> str:
    """Return the language symbol of a Common Voice code: ``de``, ``de-x-anna`` -> ``<deu>``.

    Raises:
        UsageError: there is no symbol for this language.
    """
    lang = spoken(lang)
    if lang not in ISO_639_3:
        raise unknown_name("language", lang, ISO_639_3)
    return f"<{ISO_639_3[lang]}>"


def task_symbol(task: str) -> str:
    """Return the task symbol: ``<asr>``, or ``<st_eng>`` for translation into English.

    Raises:
        UsageError: there is no such task.
    """
    target = task_called(task).target
    return f"<{task}>" if target is None else f"<{task}_{ISO_639_3[target]}>"


def prompt_symbols(pair: Pair) -> tuple[str, str, str]:
    """Return the symbols of the prompt of a language and a task, without ``<sos>``."""
    return language_symbol(pair.lang), task_symbol(pair.task), NO_TIMESTAMPS


def special_symbols(langs: Sequence[str], speech_length: float, resolution: float) -> list[str]:
    """Return the special symbols of a new vocabulary, in vocabulary order.

    ESPnet needs contiguous timestamp symbols from 0 to `speech_length` seconds, even if no
    timestamp is ever used (``espnet2/train/preprocessor.py``, ``S2TPreprocessor``).

    Args:
        langs: Common Voice codes.
        speech_length: seconds of speech that the model takes.
        resolution: seconds between two timestamps.
    """
    steps = round(speech_length / resolution)
    return [
        "<na>",
        NO_TIMESTAMPS,
        "<sop>",
        *(language_symbol(lang) for lang in langs),
        *(task_symbol(task) for task in TASKS),
        *(f"<{step * resolution:.2f}>" for step in range(steps + 1)),
    ]


@dataclass(frozen=True)
class S2TOptions(InferenceOptions):
    """Options of ``conf/inference_*.yaml`` for ESPnet's S2T models.

    Attributes:
        ctc_weight: weight of the CTC prefix scores in beam search.
        penalty: score added for each token in beam search.
        maxlenratio: maximum number of tokens for each encoder frame; it ends a hypothesis that
            repeats itself. 0 means one token for each frame.
    """

    ctc_weight: Annotated[float, Range(0, 1)] = 0.0
    penalty: float = 0.0
    maxlenratio: Annotated[float, Range(0, 1)] = 0.0

    @property
    def is_greedy(self) -> bool:
        """Whether LoRS's batched greedy search is enough, without ESPnet's beam search."""
        return self.beam_size == 1 and self.ctc_weight == 0.0

    def greedy(self) -> S2TOptions:
        return dataclasses.replace(self, beam_size=1, ctc_weight=0.0, penalty=0.0)
