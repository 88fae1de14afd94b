"""The vocabulary of a model, from the files in its directory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lors.checkpoint.directories import packed_files
from lors.errors import BRIEF, LorsError, from_os_error, shortened
from lors.fileio import read_json, read_json_object

ESPNET_CONFIG = "config.yaml"
HUGGING_FACE_VOCABULARY = "vocab.json"
CTRANSLATE2_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
"""Vocabularies of CTranslate2: a list, or (before its version 3.16) a token a line."""
ADDED_TOKENS = "added_tokens.json"


def check_same_vocabulary(base: str | os.PathLike, *experts: str | os.PathLike) -> None:
    """Check that experts have the vocabulary of their base model.

    Weights of different vocabularies may have equal shapes, but a merge of them is meaningless. A
    model whose vocabulary is not known is not checked.

    Args:
        base: a model file, or a directory of Hugging Face or CTranslate2.
        experts: models in any of these forms.

    Raises:
        LorsError: a vocabulary differs; the first different token is shown.
    """
    expected, special = tokens_of(base), dict(special_tokens_of(base))
    for expert in experts:
        got = tokens_of(expert)
        if expected is not None and got is not None and expected != got:
            # No text as the fill value: a vocabulary may hold any text.
            pairs = enumerate(zip_longest(expected, got))
            number, pair = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
            raise _other_vocabulary(
                expert,
                f"the {len(expected)} tokens of {base}",
                f"{len(got)} tokens; number {number} is {_shown(pair[1])}, in the base model "
                f"{_shown(pair[0])}",
            )
        numbers = {number: token for token, number in special.items()}
        for token, number in sorted(special_tokens_of(expert), key=lambda pair: pair[1]):
            if special.get(token, number) != number or numbers.get(number, token) != token:
                raise _other_vocabulary(
                    expert,
                    f"the special tokens of {base}",
                    f"number {number} is {token}, in the base model {numbers.get(number)}",
                )


def _other_vocabulary(expert: str | os.PathLike, expected: str, got: str) -> LorsError:
    return LorsError(
        "base model and expert have different vocabularies",
        where=expert,
        expected=expected,
        got=got,
        hint="fine-tune the expert with the token list of its base model",
    )


def _shown(token: str | None) -> str:
    return "missing" if token is None else f"'{token:.200}'"


def tokens_of(model: str | os.PathLike) -> list[str] | None:
    """Return the tokens of a model in their order; None if no file in its directory lists them.

    They are read from ``token_list`` (ESPnet) or the ``tokens`` of ``wav2vec2_conf`` in
    ``config.yaml``, from Hugging Face's ``vocab.json`` or from CTranslate2's ``vocabulary.json`` or
    ``vocabulary.txt``; the last three without their special tokens ``<|...|>``.

    Args:
        model: a model file, or a directory of Hugging Face or CTranslate2.

    Raises:
        LorsError: a file cannot be read or is damaged.
    """
    directory = _directory_of(model)
    config, vocabulary = directory / ESPNET_CONFIG, directory / HUGGING_FACE_VOCABULARY
    if config.is_file():
        # A regular expression, because parsing YAML with 50 000 tokens takes seconds.
        try:
            text = config.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise from_os_error(error) from None
        found = re.search(r"^(?:token_list| +tokens):\n((?: *- .*\n)+)", text, re.MULTILINE)
        return [line.strip(" ")[2:] for line in found[1].splitlines()] if found else None
    if vocabulary.is_file():
        numbers = token_numbers(vocabulary)
        # Some Whisper directories list <|endoftext|> here, others only among the added tokens.
        words = (token for token in numbers if not is_special(token))
        return sorted(words, key=numbers.__getitem__)
    listed = _listed_tokens(directory)
    return [token for token in listed if not is_special(token)] or None


def _listed_tokens(directory: Path) -> list[str]:
    """Return all tokens in a vocabulary of CTranslate2; empty if there is none."""
    path = next(
        (directory / n for n in CTRANSLATE2_VOCABULARIES if (directory / n).is_file()), None
    )
    if path is None:
        return []
    if path.suffix == ".txt":
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise from_os_error(error) from None
        return text.removesuffix("\n").split("\n")
    tokens = read_json(path)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise LorsError(
            "this file must hold a list of tokens",
            where=path,
            expected='["token", ...]',
            got=BRIEF.repr(tokens),
            hint="copy or download the file again",
        )
    return tokens


def is_special(token: str) -> bool:
    """Return whether a token is written like Whisper's special tokens, ``<|...|>``."""
    return token.startswith("<|") and token.endswith("|>") and len(token) > 3


def token_numbers(path: Path) -> dict[str, int]:
    """Read a JSON file of Hugging Face that maps tokens to numbers, such as ``vocab.json``.

    Raises:
        LorsError: the file cannot be read, or holds something else.
    """
    numbers = read_json_object(path)
    wrong = [
        f"{token!r}: {BRIEF.repr(number)}"
        for token, number in numbers.items()
        if type(number) is not int
    ]
    if wrong:
        raise LorsError(
            "this file must map tokens to numbers",
            where=path,
            expected='{"token": number, ...}',
            got=shortened(wrong),
            hint="copy or download the file again",
        )
    return numbers


def special_tokens_of(model: str | os.PathLike) -> set[tuple[str, int]]:
    """Return the special tokens ``<|...|>`` with their numbers that the files of a model list.

    They are read from the files in the directory of the model: Hugging Face's ``vocab.json``,
    ``added_tokens.json``, ``tokenizer_config.json`` and ``generation_config.json``, and the
    vocabulary of CTranslate2; if none lists any, from ``tokenizer.json``. Empty if there is none of
    these files.

    Args:
        model: a model file, or a directory of Hugging Face or CTranslate2.

    Raises:
        LorsError: a file cannot be read or is damaged.
    """
    directory = _directory_of(model)
    found = {(token, number) for number, token in enumerate(_listed_tokens(directory))}
    for name in (HUGGING_FACE_VOCABULARY, ADDED_TOKENS):
        if (directory / name).is_file():
            found |= set(token_numbers(directory / name).items())
    for name, tokens_in in _TOKENS_IN.items():
        if (directory / name).is_file() and not (name == "tokenizer.json" and found):
            try:
                found |= set(tokens_in(read_json_object(directory / name)))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise LorsError(
                    "the tokens in this file cannot be read",
                    where=directory / name,
                    got=f"{type(error).__name__}: {error}",
                    hint="copy or download the file again",
                ) from None
    return {(token, number) for token, number in found if is_special(token)}


def _of_tokenizer_config(content: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for number, entry in content.get("added_tokens_decoder", {}).items():
        yield str(entry["content"]), int(number)


def _of_generation_config(content: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for token, number in content.get("lang_to_id", {}).items():
        yield str(token), int(number)
    for task, number in content.get("task_to_id", {}).items():
        yield f"<|{task}|>", int(number)
    if content.get("no_timestamps_token_id") is not None:
        yield "<|notimestamps|>", int(content["no_timestamps_token_id"])


def _of_tokenizer(content: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for entry in content.get("added_tokens", []):
        yield str(entry["content"]), int(entry["id"])


_TOKENS_IN = {
    "tokenizer_config.json": _of_tokenizer_config,
    "generation_config.json": _of_generation_config,
    "tokenizer.json": _of_tokenizer,
}
"""File of Hugging Face -> function that yields the tokens in its content, with their numbers."""
VOCABULARY_FILES = (
    *(ESPNET_CONFIG, HUGGING_FACE_VOCABULARY, ADDED_TOKENS),
    *(*CTRANSLATE2_VOCABULARIES, *_TOKENS_IN),
)
"""All files that this module reads, those that a directory has of them."""


def _directory_of(model: str | os.PathLike) -> Path:
    """Return the directory with the files that describe a model."""
    path = Path(model)
    if not path.is_dir():
        return path.parent
    packed = packed_files(path)
    return path if packed is None else packed[1].parent
