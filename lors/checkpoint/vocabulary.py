"""The vocabulary of a model, from the files in its directory."""

from __future__ import annotations

import os
import re
from itertools import zip_longest
from pathlib import Path

from lors.errors import LorsError
from lors.fileio import read_json

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
        pairs = enumerate(zip_longest(expected, got, fillvalue="(none)"))
        number, (in_base, in_expert) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        raise LorsError(
            "base model and expert have different vocabularies",
            where=expert,
            expected=f"the {len(expected)} tokens of {base}",
            got=f"{len(got)} tokens; number {number} is {in_expert}, in the base model {in_base}",
            hint="fine-tune the expert with the token list of its base model",
        )


def tokens_of(model: str | os.PathLike) -> list[str] | None:
    """Return the tokens of a model in their order; None if no file in its directory lists them.

    They are read from ``token_list`` in ESPnet's ``config.yaml`` or from Hugging Face's
    ``vocab.json``, without its special tokens ``<|...|>``.

    Args:
        model: a model file or a Hugging Face directory.
    """
    path = Path(model)
    directory = path if path.is_dir() else path.parent
    config, vocabulary = directory / ESPNET_CONFIG, directory / HUGGING_FACE_VOCABULARY
    if config.is_file():
        # A regular expression, because parsing YAML with 50 000 tokens takes seconds.
        text = config.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^token_list:\n((?:- .*\n)+)", text, re.MULTILINE)
        return [line[2:] for line in found[1].splitlines()] if found else None
    if vocabulary.is_file():
        numbers = read_json(vocabulary)
        # Some Whisper directories list <|endoftext|> here, others only among the added tokens.
        words = (token for token in numbers if not re.fullmatch(r"<\|.*\|>", token))
        return sorted(words, key=numbers.get)
    return None
