"""The Whisper family: prompts, training data and options of inference.

The prompt is Whisper's own, ``<|startoftranscript|><|lang|><|task|><|notimestamps|>``. For
translation `lang` is the language that is spoken, as in Whisper's pre-training.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lors.config import Range, build
from lors.data.datadir import Utterance
from lors.errors import LorsError, UsageError, near_matches, unknown_name
from lors.export.whisper_tokenizer import ENGLISH_ONLY, LANGUAGES
from lors.models.family import Family, InferenceOptions
from lors.tasks import Pair
from lors.whisper_package import whisper_part

if TYPE_CHECKING:
    from whisper.tokenizer import Tokenizer

    from lors.models.whisper.inference import WhisperModel

TASKS = {"asr": "transcribe", "st": "translate"}
PROMPT_LENGTH = 4
"""Tokens of a prompt: start, language, task and no timestamps."""
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages whose words Whisper's tokenizer does not split at spaces."""
OFFICIAL = (
    *("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "large"),
    *("large-v3-turbo", "turbo"),
)
"""Names of OpenAI's multi-lingual models, which openai-whisper downloads."""
_PROMPT = re.compile(r"((?:<\|[^|]+\|>)+) ?")


Window = Annotated[float, Range(0.02, 30)]
"""Seconds that speech is padded to."""


@dataclass(frozen=True)
class WhisperConf:
    """``whisper_conf`` in the ``config.yaml`` of a Whisper model: what all who use it must share.

    Attributes:
        dims: the dimensions, under OpenAI's names.
        window: seconds that speech is padded to; Whisper's own is 30. With a shorter one, encoder
            and decoder have less to do, and only the first positions are used.
        st_language: whether the prompt of a translation names the language that is spoken
            (``source``, as in pre-training) or the one that is written (``target``).
    """

    dims: dict[str, int]
    window: Window = 30.0
    st_language: Literal["source", "target"] = "source"


@dataclass(frozen=True)
class WhisperOptions(InferenceOptions):
    """``conf/inference_*.yaml`` of the Whisper family.

    Attributes:
        max_tokens: at most that many tokens are said; 0 for half of the decoder's context, as
            OpenAI's program does.
        patience: of the beam search: it ends with ``beam_size * patience`` finished hypotheses.
        length_penalty: exponent of Google's length penalty in the beam search; null ranks by the
            mean log probability of a token.
        suppress_symbols: whether brackets, quotes and other signs that are not spoken are never
            written, as in OpenAI's program.
        dtype: of weights and activations; auto is float16 on a GPU and float32 elsewhere.
    """

    batch_size: Annotated[int, Range(1)] = 32
    max_tokens: Annotated[int, Range(0, 448)] = 0
    patience: Annotated[float, Range(0.1, 10)] = 1.0
    length_penalty: Annotated[float, Range(0, 1)] | None = None
    suppress_symbols: bool = True
    dtype: Literal["auto", "float32", "float16"] = "auto"

    def greedy(self) -> WhisperOptions:
        return dataclasses.replace(self, beam_size=1, patience=1.0, length_penalty=None)


@cache
def tokenizer_of(vocabulary: int) -> Tokenizer:
    """OpenAI's tokenizer for a multi-lingual model with that many tokens."""
    return whisper_part("tokenizer").get_tokenizer(
        multilingual=True, num_languages=LANGUAGES[vocabulary]
    )


def language_code(lang: str) -> str:
    """Whisper's code of a Common Voice code: ``sv-SE`` -> ``sv``.

    ``zh-HK`` is Cantonese, ``yue``, which only the vocabulary of large-v3 has.
    """
    return "yue" if lang == "zh-HK" else lang.split("-")[0]


def check_base_model(base_model: str) -> None:
    """Check that there may be such a base model: a file, a directory or an official name.

    Raises:
        UsageError: it is none of these, or speaks English only.
    """
    if base_model and (base_model in OFFICIAL or Path(base_model).exists()):
        return
    english = base_model.endswith(".en")
    raise UsageError(
        "this Whisper speaks English only" if english else "no such Whisper",
        where="--base_model",
        expected=f"a file, a directory, or one of {', '.join(OFFICIAL)}",
        got=base_model or "an empty name",
        hint=near_matches(base_model.removesuffix(".en"), OFFICIAL),
    )


def encode(line: str, tokenizer: Tokenizer) -> list[int]:
    """The token ids of a line of training data, from <|startoftranscript|> to <|endoftext|>.

    Args:
        line: e.g. ``<|de|><|transcribe|><|notimestamps|> Guten Tag.``
    """
    prompt = _PROMPT.match(line)
    symbols = re.findall(r"<\|[^|]+\|>", prompt[1])
    words = line[prompt.end() :]
    # Whisper's own transcripts begin with a space in languages that have spaces.
    code = symbols[0][2:-2] if symbols[1] == "<|transcribe|>" else "en"
    if words and code not in WITHOUT_SPACES:
        words = f" {words}"
    specials = [tokenizer.special_tokens[symbol] for symbol in symbols]
    # What looks like a special token in a corpus is text.
    said = tokenizer.encode(words, disallowed_special=())
    return [tokenizer.sot, *specials, *said, tokenizer.eot]


class Whisper(Family):
    """Whisper, fine-tuned by ESPnet's trainer."""

    name = "whisper"
    train_module = "lors.bin.whisper_train"
    data_files = {  # noqa: RUF012 - a constant, as the base class says
        "wav.scp": ("speech", "sound"),
        "text": ("text", "text"),
    }
    model_keys = ("whisper_conf",)
    inference_options = WhisperOptions

    def __init__(self, config: Mapping[str, Any], where: object):
        super().__init__(config, where)
        self.conf = build(WhisperConf, config["whisper_conf"], f"{where}: whisper_conf")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.conf.dims["n_vocab"])

    def language(self, pair: Pair) -> str:
        """The code of the language that the prompt names.

        Raises:
            UsageError: Whisper does not know the language that is spoken.
        """
        code = language_code(pair.lang)
        codes = self.tokenizer.all_language_codes
        if code not in codes:
            raise unknown_name("language", pair.lang, sorted(codes), self.where)
        return "en" if pair.task == "st" and self.conf.st_language == "target" else code

    def prompt(self, pair: Pair) -> str:
        """The prompt of a language and task, without <|startoftranscript|>.

        Raises:
            UsageError: as :meth:`language`.
        """
        return f"<|{self.language(pair)}|><|{TASKS[pair.task]}|><|notimestamps|>"

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        for pair in pairs:
            self.language(pair)

    def columns(self, utterance: Utterance, pair: Pair, text: str) -> dict[str, str]:
        return {"text": f"{self.prompt(pair)} {text}"}

    def misfit(self, utterance: Utterance, columns: Mapping[str, str]) -> str | None:
        if utterance.duration is not None and utterance.duration > self.conf.window:
            return f"{utterance.duration:g} s of audio in a window of {self.conf.window:g} s"
        tokens = len(encode(columns["text"], self.tokenizer))
        context = self.conf.dims["n_text_ctx"]
        # The decoder reads all tokens but the last.
        if tokens - 1 > context:
            return f"{tokens} tokens for a decoder of {context}"
        return None

    def recogniser(self, directory: str | os.PathLike, device: str) -> WhisperModel:
        from lors.models.whisper.inference import WhisperModel  # torch is slow to import

        return WhisperModel(directory, self, device)


def check_dims(dims: Mapping[str, int], where: object) -> None:
    """Check that LoRS can use a model with these dimensions.

    Raises:
        LorsError: an English-only model, or one with another vocabulary or number of mels than
            OpenAI's.
    """
    vocabulary, mels = dims["n_vocab"], dims["n_mels"]
    known = " or ".join(map(str, LANGUAGES))
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
            "not the vocabulary or the features of an official Whisper",
            where=where,
            expected=f"{known} tokens, 80 or 128 mels",
            got=f"{vocabulary} tokens, {mels} mels",
        )
