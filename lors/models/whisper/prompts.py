"""Whisper's prompts and the tokens of its training texts.

A prompt is Whisper's own: ``<|startoftranscript|><|lang|><|task|><|notimestamps|>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from lors.errors import BRIEF, LorsError, unknown_name
from lors.export.whisper_tokenizer import ENGLISH_ONLY, LANGUAGES
from lors.models.whisper.conf import WhisperConf
from lors.tasks import ASR, ST, TARGET, Pair, spoken
from lors.whisper_package import whisper_part

if TYPE_CHECKING:
    from whisper.tokenizer import Tokenizer

TASK_NAMES = {ASR.name: "transcribe", ST.name: "translate"}
"""Names of LoRS's tasks -> Whisper's."""
PROMPT_LENGTH = 4
"""Tokens of a prompt: start, language, task and no timestamps."""
ENGLISH_PROMPT_LENGTH = 2
"""Tokens of a prompt of an English-only model: start and no timestamps."""
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages whose words Whisper's tokenizer does not split at spaces."""
_PROMPT = re.compile(r"((?:<\|[^|]+\|>)+) ?")


@cache
def tokenizer_of(vocabulary: int) -> Tokenizer:
    """Return OpenAI's tokenizer of a model with this number of tokens."""
    if vocabulary == ENGLISH_ONLY:
        return whisper_part("tokenizer").get_tokenizer(multilingual=False)
    return whisper_part("tokenizer").get_tokenizer(
        multilingual=True, num_languages=LANGUAGES[vocabulary]
    )


_OTHER_CODES = {"zh-HK": "yue", "cmn": "zh", "nb": "no", "nb-NO": "no", "jv": "jw", "fil": "tl"}
"""Common Voice and FLEURS codes -> Whisper's, where the first part of the code is another one.

Cantonese (``yue``) is only in the vocabulary of large-v3. Whisper calls Bokmål Norwegian (``no``),
has an older code for Javanese (``jw``), and Filipino as Tagalog (``tl``), on which it is based.
"""


def language_code(lang: str) -> str:
    """Return Whisper's language code for a Common Voice code: ``sv-SE`` -> ``sv``."""
    lang = spoken(lang)
    return _OTHER_CODES.get(lang, lang.split("-")[0])


def encode(line: str, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of a training text, from <|startoftranscript|> to <|endoftext|>.

    Args:
        line: prompt and text, e.g. ``<|de|><|transcribe|><|notimestamps|> Guten Tag.``; for an
            English-only model ``<|notimestamps|> Good morning.``
        tokenizer: the model's tokenizer.

    Raises:
        LorsError: the line does not begin with a prompt.
    """
    prompt = _PROMPT.match(line)
    if prompt is None:
        raise LorsError(
            "a training text without a prompt",
            expected="<|de|><|transcribe|><|notimestamps|> Guten Tag.",
            got=BRIEF.repr(line),
        )
    symbols = re.findall(r"<\|[^|]+\|>", prompt[1])
    text = line[prompt.end() :]
    named = symbols[:2] if len(symbols) > 1 else ("<|en|>", f"<|{TASK_NAMES[ASR.name]}|>")
    lang, task = (symbol[2:-2] for symbol in named)
    # Whisper's own transcripts begin with a space in languages that have spaces.
    if text and (lang if task == TASK_NAMES[ASR.name] else TARGET) not in WITHOUT_SPACES:
        text = f" {text}"
    specials = [tokenizer.special_tokens[symbol] for symbol in symbols]
    # A special token in the text of a corpus is ordinary text.
    tokens = tokenizer.encode(text, disallowed_special=())
    return [tokenizer.sot, *specials, *tokens, tokenizer.eot]


@dataclass(frozen=True)
class WhisperPrompts:
    """The prompts of one model.

    Attributes:
        conf: the model's ``whisper_conf``.
        where: the file of `conf`, for error messages.
    """

    conf: WhisperConf
    where: object

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.conf.dims["n_vocab"])

    @property
    def length(self) -> int:
        """Number of tokens of a prompt."""
        return ENGLISH_PROMPT_LENGTH if self.conf.is_english_only else PROMPT_LENGTH

    def language(self, pair: Pair) -> str:
        """Return Whisper's code of the language that the prompt names.

        Raises:
            UsageError: Whisper does not know the language of the speech.
            LorsError: an English-only model, and another language or task.
        """
        if self.conf.is_english_only and (spoken(pair.lang), pair.task) != ("en", ASR.name):
            raise LorsError(
                "an English-only Whisper",
                where=self.where,
                expected="recognition of English",
                got=pair,
                hint="take the model without .en in its name as --base_model",
            )
        language = language_code(pair.lang)
        codes = self.tokenizer.all_language_codes
        if language not in codes:
            raise unknown_name("language", pair.lang, sorted(codes), self.where)
        if self.conf.st_language == "source":
            return language
        return language_code(pair.speech_task.text_language(pair.lang))

    def prompt(self, pair: Pair) -> str:
        """Return the prompt without <|startoftranscript|>.

        Raises:
            LorsError: as :meth:`language`.
        """
        if self.conf.is_english_only:
            self.language(pair)
            return "<|notimestamps|>"
        return f"<|{self.language(pair)}|><|{TASK_NAMES[pair.task]}|><|notimestamps|>"
