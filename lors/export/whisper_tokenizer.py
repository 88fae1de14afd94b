"""Whisper's vocabulary in the files of Hugging Face, made from that of openai-whisper.

OpenAI keeps a vocabulary as ranks (tiktoken): any two neighbours whose join is a token are
merged, the join of the lowest rank first. Hugging Face keeps the list of merges, and writes bytes
as letters.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.errors import LorsError
from lors.whisper_package import whisper_part

LANGUAGES = {51865: 99, 51866: 100}
"""Size of a multi-lingual vocabulary -> number of its languages (large-v3 has Cantonese too)."""
ENGLISH_ONLY = 51864


class WhisperTokens:
    """The tokens of a multi-lingual Whisper.

    Args:
        n_vocab: size of the vocabulary, which tells what languages it has.
        where: the model, for an error.

    Raises:
        LorsError: no multi-lingual Whisper has so many tokens, or openai-whisper is missing.
    """

    def __init__(self, n_vocab: int, where: object = None):
        if n_vocab not in LANGUAGES:
            english = n_vocab == ENGLISH_ONLY
            raise LorsError(
                "this is an English-only Whisper, and LoRS is for multi-lingual ones"
                if english
                else "the vocabulary of this model is not one of Whisper's",
                where=where,
                expected=f"{' or '.join(map(str, LANGUAGES))} tokens",
                got=f"{n_vocab} tokens",
                hint="start from a model whose name does not end in .en" if english else None,
            )
        module = whisper_part("tokenizer")
        count = LANGUAGES[n_vocab]
        tokens = module.get_tokenizer(multilingual=True, num_languages=count)
        self.eot: int = tokens.eot
        self.sot: int = tokens.sot
        self.sot_prev: int = tokens.sot_prev
        self.no_timestamps: int = tokens.no_timestamps
        self.languages = {
            f"<|{code}|>": tokens.to_language_token(code) for code in list(module.LANGUAGES)[:count]
        }
        self.tasks = {"transcribe": tokens.transcribe, "translate": tokens.translate}
        self.blank: list[int] = [*tokens.encode(" "), tokens.eot]
        """What cannot come first: openai-whisper's suppress_blank."""
        own = [tokens.sot, *self.tasks.values(), tokens.sot_lm, tokens.sot_prev, tokens.no_speech]
        self.suppressed: list[int] = sorted({*tokens.non_speech_tokens, *own})
        """What is never put out: openai-whisper's suppress_tokens="-1"."""
        self.special = dict(sorted(tokens.special_tokens.items(), key=lambda entry: entry[1]))
        """<|endoftext|> and all that come after it, timestamps included."""
        self.ranks = {
            tokens.encoding.decode_single_token_bytes(rank): rank for rank in range(tokens.eot)
        }


def tokenizer_files(tokens: WhisperTokens, max_length: int) -> dict[str, Any]:
    """The tokenizer's files in a directory of Hugging Face: name -> content, text or JSON.

    Args:
        tokens: of the model.
        max_length: the number of tokens that the decoder has positions for.
    """
    letters = byte_letters()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    end = "<|endoftext|>"
    vocabulary = {written(token): rank for token, rank in tokens.ranks.items()} | {end: tokens.eot}
    merges = [f"{written(left)} {written(right)}" for left, right in merges_of(tokens.ranks)]
    added = {
        number: {
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            # Timestamps are text to Hugging Face: they stay when special tokens are left out.
            "special": number <= tokens.no_timestamps,
        }
        for token, number in tokens.special.items()
    }
    special = [entry["content"] for entry in added.values() if entry["special"]]
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end)
    english_spelling = Path(whisper_part("normalizers").__file__).parent / "english.json"
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": number, **entry} for number, entry in added.items()],
            "normalizer": None,
            "pre_tokenizer": _byte_level(),
            "post_processor": _template(tokens, ["<|startoftranscript|>", "<|notimestamps|>"], end),
            "decoder": _byte_level(),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": vocabulary,
                "merges": merges,
            },
        },
        "vocab.json": vocabulary,
        # The first line is a header to those who read the file: without one a merge is lost.
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "normalizer.json": json.loads(english_spelling.read_text(encoding="utf-8")),
        "added_tokens.json": {
            token: number for token, number in tokens.special.items() if token != end
        },
        "special_tokens_map.json": {**roles, "additional_special_tokens": special},
        "tokenizer_config.json": {
            **roles,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(number): entry for number, entry in added.items()},
            "additional_special_tokens": special,
            # As in openai-whisper: a space before a question mark is French, not an error.
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": max_length,
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
            "tokenizer_class": "WhisperTokenizer",
        },
    }


def byte_letters() -> list[str]:
    """The letter that stands for each byte in the files of byte-level BPE (GPT-2's, since 2019).

    A byte that is a printable Latin-1 character stands for itself, and the others, in their order,
    are the characters from U+0100 on: a space is ``Ġ``.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(0x100)]


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges of a byte-level BPE, in order, from the ranks of its tokens.

    A token's own merge is that of the two parts into which its bytes fall when only the tokens of
    lower rank are merged.

    Args:
        ranks: token -> rank; the single bytes come first.

    Raises:
        ValueError: a token does not fall into two parts: these are no ranks of a BPE.
    """
    merges = []
    for token in sorted(ranks, key=ranks.get):
        if len(token) > 1:
            left, right = _parts(token, ranks)
            merges.append((left, right))
    return merges


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        joins = [ranks.get(a + b, ranks[token]) for a, b in itertools.pairwise(parts)]
        lowest = min(joins)
        if lowest == ranks[token]:
            break
        index = joins.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _byte_level() -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,  # GPT-2's expression, which is Whisper's
    }


def _template(tokens: WhisperTokens, before: list[str], after: str) -> dict[str, Any]:
    """What is put around a text when it is tokenised with special tokens."""

    def one(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    start = [one(token) for token in before]
    return {
        "type": "TemplateProcessing",
        "single": [*start, {"Sequence": {"id": "A", "type_id": 0}}, one(after)],
        "pair": [
            *start,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
            one(after),
        ],
        "special_tokens": {
            token: {"id": token, "ids": [tokens.special[token]], "tokens": [token]}
            for token in (*before, after)
        },
    }
