"""Whisper's tokenizer in Hugging Face's file formats, made from the one in openai-whisper.

OpenAI stores a vocabulary as ranks (tiktoken): two neighbouring tokens are merged if the result is
a token, in the order of the ranks. Hugging Face stores the merges, and each byte as a letter.
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
"""Size of a multi-lingual vocabulary -> number of its languages (large-v3 added Cantonese)."""
ENGLISH_ONLY = 51864
"""Size of the English-only vocabulary."""
END = "<|endoftext|>"


class WhisperTokens:
    """The tokens of a multi-lingual Whisper.

    Args:
        n_vocab: size of the vocabulary, which determines its languages.
        where: the model, for errors.

    Raises:
        LorsError: no multi-lingual Whisper has this many tokens, or openai-whisper is missing.
    """

    def __init__(self, n_vocab: int, where: object = None):
        if n_vocab not in LANGUAGES:
            english = n_vocab == ENGLISH_ONLY
            raise LorsError(
                "this is an English-only Whisper model, and LoRS needs a multi-lingual one"
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
        """Tokens that a text cannot begin with: suppress_blank in openai-whisper."""
        own = [tokens.sot, *self.tasks.values(), tokens.sot_lm, tokens.sot_prev, tokens.no_speech]
        self.suppressed: list[int] = sorted({*tokens.non_speech_tokens, *own})
        """Tokens that are never in a text: suppress_tokens="-1" in openai-whisper."""
        self.special = dict(sorted(tokens.special_tokens.items(), key=lambda entry: entry[1]))
        """<|endoftext|> and all tokens after it, with timestamps; in the order of numbers."""
        self.ranks = {
            tokens.encoding.decode_single_token_bytes(rank): rank for rank in range(tokens.eot)
        }
        """The ordinary tokens, as bytes -> rank."""


def tokenizer_files(tokens: WhisperTokens, max_length: int) -> dict[str, Any]:
    """Return the tokenizer's files of a Hugging Face directory.

    Args:
        tokens: the tokens of the model.
        max_length: number of positions of the decoder.

    Returns:
        File name -> content: a str for a text file, any other value for a JSON file.
    """
    letters = byte_letters()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in tokens.ranks.items()} | {END: tokens.eot}
    merges = [f"{written(left)} {written(right)}" for left, right in merges_of(tokens.ranks)]
    added = _added_tokens(tokens)
    special = [entry["content"] for entry in added.values() if entry["special"]]
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    english_spelling = Path(whisper_part("normalizers").__path__[0]) / "english.json"
    return {
        "tokenizer.json": _fast_tokenizer(tokens, vocabulary, merges),
        "vocab.json": vocabulary,
        # Readers skip the first line: without a header they would lose a merge.
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "normalizer.json": json.loads(english_spelling.read_text(encoding="utf-8")),
        "added_tokens.json": {
            token: number for token, number in tokens.special.items() if token != END
        },
        "special_tokens_map.json": {**roles, "additional_special_tokens": special},
        "tokenizer_config.json": {
            **roles,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(number): entry for number, entry in added.items()},
            "additional_special_tokens": special,
            # As in openai-whisper: a space before a question mark is correct in French.
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": max_length,
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
            "tokenizer_class": "WhisperTokenizer",
        },
    }


def _added_tokens(tokens: WhisperTokens) -> dict[int, dict[str, Any]]:
    """Return Hugging Face's description of each special token, under its number."""
    return {
        number: {
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            # Hugging Face treats timestamps as text: they stay when special tokens are removed.
            "special": number <= tokens.no_timestamps,
        }
        for token, number in tokens.special.items()
    }


def _fast_tokenizer(
    tokens: WhisperTokens, vocabulary: Mapping[str, int], merges: list[str]
) -> dict[str, Any]:
    """Return the content of ``tokenizer.json``."""
    added = [{"id": number, **entry} for number, entry in _added_tokens(tokens).items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _byte_level(),
        "post_processor": _template(tokens, ["<|startoftranscript|>", "<|notimestamps|>"], END),
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
    }


def byte_letters() -> list[str]:
    """Return the letter for each byte in files of byte-level BPE, as introduced by GPT-2 (2019).

    A printable Latin-1 character is its own letter. The other bytes, in their order, have the
    letters from U+0100 on: a space is ``Ġ``.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(0x100)]


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the merges of a byte-level BPE, in order, from the ranks of its tokens.

    The merge that makes a token joins two tokens. They are found by encoding the bytes of the token
    with the tokens of lower rank only.

    Args:
        ranks: token -> rank; the single bytes have the lowest ranks.

    Raises:
        ValueError: an encoding has more than two tokens, so these are not the ranks of a BPE.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            left, right = _parts(token, ranks)
            merges.append((left, right))
    return merges


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the parts of a token's bytes when they are encoded with tokens of lower rank."""
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
        "use_regex": True,  # the expression of GPT-2, which Whisper uses too
    }


def _template(tokens: WhisperTokens, before: list[str], after: str) -> dict[str, Any]:
    """Return the template that adds the special tokens `before` and `after` to a text."""

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
