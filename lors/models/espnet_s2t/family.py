"""The ESPnet S2T family (OWSM and its kin): prompts, training data and options of inference.

One S2T model serves many languages and tasks; the prompt ``<sos><lang><task><notimestamps>``
tells it which.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lors.config import Range
from lors.data.datadir import Utterance
from lors.errors import LorsError, unknown_name
from lors.models.family import Family, InferenceOptions
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.models.espnet_s2t.inference import S2TModel

# Common Voice's codes -> ISO 639-3, which ESPnet's S2T models use in their language symbols.
ISO_639_3 = {
    "ar": "ara",
    "ca": "cat",
    "cy": "cym",
    "de": "deu",
    "en": "eng",
    "es": "spa",
    "et": "est",
    "fa": "fas",
    "fr": "fra",
    "id": "ind",
    "it": "ita",
    "ja": "jpn",
    "lv": "lav",
    "mn": "mon",
    "nl": "nld",
    "pt": "por",
    "ru": "rus",
    "sl": "slv",
    "sv-SE": "swe",
    "ta": "tam",
    "tr": "tur",
    "zh-CN": "zho",
}
TASKS = ("asr", "st")
NO_TIMESTAMPS = "<notimestamps>"
# What a fine-tuned model takes over from its base, so that both have one structure and one
# vocabulary; everything else comes from the training configuration.
MODEL_KEYS = (
    "token_list",
    "token_type",
    "bpemodel",
    "cleaner",
    "g2p",
    "non_linguistic_symbols",
    "input_size",
    "ctc_conf",
    "frontend",
    "frontend_conf",
    "normalize",
    "normalize_conf",
    "preencoder",
    "preencoder_conf",
    "encoder",
    "encoder_conf",
    "postencoder",
    "postencoder_conf",
    "decoder",
    "decoder_conf",
    "preprocessor",
    "preprocessor_conf",
    "model",
    "model_conf",
)


def language_symbol(lang: str) -> str:
    """The language symbol of a Common Voice code: ``de`` -> ``<deu>``."""
    if lang not in ISO_639_3:
        raise unknown_name("language", lang, ISO_639_3)
    return f"<{ISO_639_3[lang]}>"


def task_symbol(task: str, target: str = "en") -> str:
    """The task symbol: ``<asr>``, or ``<st_eng>`` for translation into English."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return "<asr>" if task == "asr" else f"<st_{ISO_639_3[target]}>"


def special_symbols(langs: Sequence[str], speech_length: float, resolution: float) -> list[str]:
    """The symbols of a new S2T vocabulary that stand for no text, in vocabulary order.

    ESPnet needs contiguous timestamp symbols from 0 to `speech_length` seconds even where no
    timestamp is ever used (``espnet2/train/preprocessor.py``, ``S2TPreprocessor``).
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
    """``conf/inference_*.yaml`` of the ESPnet S2T family.

    Attributes:
        ctc_weight: weight of the CTC prefix scores in the beam search.
        penalty: score added for each token in the beam search.
        maxlenratio: at most that many tokens for each encoder frame, which ends a hypothesis that
            repeats itself; 0 for no limit but one token a frame.
    """

    ctc_weight: Annotated[float, Range(0, 1)] = 0.0
    penalty: float = 0.0
    maxlenratio: Annotated[float, Range(0, 1)] = 0.0

    @property
    def is_greedy(self) -> bool:
        """Whether the batched search will do, and ESPnet's beam search is not needed."""
        return self.beam_size == 1 and self.ctc_weight == 0.0

    def greedy(self) -> S2TOptions:
        return dataclasses.replace(self, beam_size=1, ctc_weight=0.0, penalty=0.0)


class EspnetS2T(Family):
    """Models of ESPnet's S2T task."""

    name = "espnet_s2t"
    train_module = "lors.bin.s2t_train"
    data_files = {  # noqa: RUF012 - a constant, as the base class says
        "wav.scp": ("speech", "sound"),
        "text": ("text", "text"),
        "text_prev": ("text_prev", "text"),
        "text_ctc": ("text_ctc", "text"),
    }
    model_keys = MODEL_KEYS
    inference_options = S2TOptions

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Check that the vocabulary has the prompts of `pairs`.

        Sentencepiece would otherwise spell an unknown prompt letter by letter, without a word.

        Raises:
            LorsError: symbols are missing; all of them are named.
        """
        tokens = set(self.config.get("token_list") or [])
        symbols = {s for p in pairs for s in (language_symbol(p.lang), task_symbol(p.task))}
        missing = sorted(symbols - tokens)
        if missing:
            known = [lang for lang in ISO_639_3 if language_symbol(lang) in tokens]
            raise LorsError(
                f"the base model does not know {' '.join(missing)}",
                where=self.where,
                expected=f"languages among {' '.join(known)}",
                hint="choose such languages, or train a base model of your own: --train_base true "
                "with a new --expdir",
            )

    def columns(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        prompt = language_symbol(pair.lang) + task_symbol(pair.task) + NO_TIMESTAMPS
        # The CTC branch reads what was said, whatever the task.
        return {"text": f"{prompt} {text}", "text_prev": "<na>", "text_ctc": utterance.text}

    def recogniser(self, directory: str | os.PathLike, device: str) -> S2TModel:
        from lors.models.espnet_s2t.inference import S2TModel  # torch and ESPnet are slow to import

        return S2TModel(directory, device)
