"""Configuration of a Whisper model: its dimensions and window, its inference, official models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lors.checkpoint.hub import hub_name
from lors.config import Range
from lors.errors import LorsError, UsageError, near_matches
from lors.export.whisper_tokenizer import ENGLISH_ONLY, LANGUAGES
from lors.models.family import InferenceOptions
from lors.models.whisper.window import Window

OFFICIAL = (
    *("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "large"),
    *("large-v3-turbo", "turbo"),
)
"""Names of OpenAI's multi-lingual models, which openai-whisper downloads."""
ENGLISH = ("tiny.en", "base.en", "small.en", "medium.en")
"""Names of OpenAI's English-only models."""

Seconds = Annotated[float, Range(0.02, 30)]
WindowValue = Literal["auto"] | Seconds
"""Seconds that speech is padded to; auto: see :mod:`lors.models.whisper.window`."""
StLanguage = Literal["source", "target"]
"""Language in the prompt of a translation: language of the speech (``source``, as in Whisper's
pre-training) or of the text (``target``)."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of the recipes for the import of a base model; they hold for all later stages.

    Attributes:
        window: seconds that speech is padded to; 30 in Whisper's pre-training. A shorter window
            saves computation and uses only the first positions of the encoder. auto: 30 s, with
            one position of the encoder for many in the silence after the speech.
        st_language: language in the prompt of a translation.
        base_window: window of the base model's own inference, in seconds; None for `window`.
            Models that are trained or merged from the base model have `window`.
    """

    window: WindowValue = 30.0
    st_language: StLanguage = "source"
    base_window: Seconds | None = None


@dataclass(frozen=True)
class OwnInference:
    """``inference.yaml`` beside a model: what holds for its inference alone.

    A model that is trained or merged from it, or added to it, has the ``config.yaml`` only.

    Attributes:
        window: seconds that speech is padded to.
    """

    window: Seconds


@dataclass(frozen=True)
class WhisperConf:
    """``whisper_conf`` in the ``config.yaml`` of a model: the same in training and inference.

    Attributes:
        dims: the dimensions, under OpenAI's names.
        window, st_language: as in :class:`ImportOptions`.
    """

    dims: dict[str, int]
    window: WindowValue = 30.0
    st_language: StLanguage = "source"

    @property
    def speech_window(self) -> Window:
        return Window(self.window, self.dims["n_audio_ctx"])

    @property
    def is_english_only(self) -> bool:
        return self.dims["n_vocab"] == ENGLISH_ONLY


@dataclass(frozen=True)
class WhisperOptions(InferenceOptions):
    """Options of ``conf/inference_*.yaml`` for Whisper.

    Attributes:
        max_tokens: maximum number of tokens of a text; 0 means half of the decoder's context, as
            in OpenAI's program.
        max_tokens_per_second: maximum number of tokens of a text for each second of speech and for
            one second more, which lets short clips have a word; it ends a text that repeats itself.
            0 means that only `max_tokens` counts.
        patience: beam search ends with ``beam_size * patience`` finished hypotheses.
        length_penalty: exponent of Google's length penalty in beam search; null ranks by the mean
            log probability of a token.
        suppress_symbols: never write brackets, quotes and other signs that are not spoken, as in
            OpenAI's program.
        dtype: type of weights and activations: auto, fast or its name
            (:func:`lors.models.precision.dtype_of`).
    """

    batch_size: Annotated[int, Range(1)] = 32
    max_tokens: Annotated[int, Range(0, 448)] = 0
    max_tokens_per_second: Annotated[float, Range(0, 1000)] = 0.0
    patience: Annotated[float, Range(0.1, 10)] = 1.0
    length_penalty: Annotated[float, Range(0, 1)] | None = None
    suppress_symbols: bool = True
    dtype: Literal["auto", "fast", "float32", "float16", "bfloat16"] = "auto"

    def most_tokens(self, seconds: float) -> float:
        """Return the maximum number of tokens for speech of this length, without `max_tokens`."""
        rate = self.max_tokens_per_second
        return math.ceil(rate * (seconds + 1)) if rate else math.inf

    def greedy(self) -> WhisperOptions:
        return dataclasses.replace(self, beam_size=1, patience=1.0, length_penalty=None)


def check_base_model(base_model: str, english: bool = False) -> None:
    """Check that a base model is an official name, a file or directory, or a name on the Hub.

    Args:
        base_model: the name or path; whether the Hub has the name is not checked.
        english: whether English is the only language, so that an English-only model will do.

    Raises:
        UsageError: it is none of these, or an English-only model.
    """
    official = (*OFFICIAL, *ENGLISH) if english else OFFICIAL
    if base_model and (base_model in official or Path(base_model).exists()):
        return
    if base_model and hub_name(base_model) is not None:
        return
    refused = base_model.endswith(".en") and not english
    raise UsageError(
        "this Whisper knows English only" if refused else "no such Whisper model",
        where="--base_model",
        expected=f"a file, a directory, a name on the Hugging Face Hub such as "
        f"openai/whisper-small, or one of {', '.join(official)}",
        got=base_model or "an empty name",
        hint=near_matches(base_model if english else base_model.removesuffix(".en"), official),
    )


def check_dims(dims: Mapping[str, int], where: object, english: bool = False) -> None:
    """Check that LoRS can use a model with these dimensions.

    Args:
        dims: the dimensions.
        where: the model, for the error message.
        english: whether an English-only model will do.

    Raises:
        LorsError: an English-only model, or another vocabulary or number of mels than in OpenAI's
            models.
    """
    vocabulary, mels = dims["n_vocab"], dims["n_mels"]
    known = " or ".join(map(str, LANGUAGES))
    if vocabulary == ENGLISH_ONLY and english and mels == 80:
        return
    if vocabulary == ENGLISH_ONLY:
        raise LorsError(
            "an English-only Whisper",
            where=where,
            expected=f"a multi-lingual one ({known} tokens)",
            got=f"{vocabulary} tokens",
            hint="take the model without .en in its name",
        )
    if vocabulary not in LANGUAGES or mels not in (80, 128):
        raise LorsError(
            "vocabulary or features of no official Whisper",
            where=where,
            expected=f"{known} tokens, 80 or 128 mels",
            got=f"{vocabulary} tokens, {mels} mels",
        )
