"""The vocabulary of a model, from the files in its directory."""

from __future__ import annotations

import os
import re
from itertools import zip_longest
from pathlib import Path

from lors.errors import BRIEF, LorsError, from_os_error, shortened
from lors.fileio import read_json_object

ESPNET_CONFIG = "config.yaml"
HUGGING_FACE_VOCABULARY = "vocab.json"


def check_same_vocabulary(base: str | os.PathLike, *experts: str | os.PathLike) -> None:
    """Check that experts have the vocabulary of their base model.

    Weights of different vocabularies may have equal shapes, but a merge of them is meaningless. A
    model whose vocabulary is not known is not checked.

    Args:
        base, experts: model files or Hugging Face directories.

    Raises:
        LorsError: a vocabulary differs; the first different token is shown.
    """
    expected = tokens_of(base)
    if expected is None:
        return
    for expert in experts:
        got = tokens_of(expert)
        if got is None or expected == got:
            continue
        # No text as the fill value: a vocabulary may hold any text.
        pairs = enumerate(zip_longest(expected, got))
        number, (in_base, in_expert) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        raise LorsError(
            "base model and expert have different vocabularies",
            where=expert,
            expected=f"the {len(expected)} tokens of {base}",
            got=f"{len(got)} tokens; number {number} is {_shown(in_expert)}, in the base model "
            f"{_shown(in_base)}",
            hint="fine-tune the expert with the token list of its base model",
        )


def _shown(token: str | None) -> str:
    return "missing" if token is None else f"'{token:.200}'"


def tokens_of(model: str | os.PathLike) -> list[str] | None:
    """Return the tokens of a model in their order; None if no file in its directory lists them.

    They are read from ``token_list`` in ESPnet's ``config.yaml`` or from Hugging Face's
    ``vocab.json``, without its special tokens ``<|...|>``.

    Args:
        model: a model file or a Hugging Face directory.

    Raises:
        LorsError: a file cannot be read or is damaged.
    """
    path = Path(model)
    directory = path if path.is_dir() else path.parent
    config, vocabulary = directory / ESPNET_CONFIG, directory / HUGGING_FACE_VOCABULARY
    if config.is_file():
        # A regular expression, because parsing YAML with 50 000 tokens takes seconds.
        try:
            text = config.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise from_os_error(error) from None
        found = re.search(r"^token_list:\n((?:- .*\n)+)", text, re.MULTILINE)
        return [line[2:] for line in found[1].splitlines()] if found else None
    if vocabulary.is_file():
        numbers = token_numbers(vocabulary)
        # Some Whisper directories list <|endoftext|> here, others only among the added tokens.
        words = (token for token in numbers if not is_special(token))
        return sorted(words, key=numbers.get)
    return None


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
