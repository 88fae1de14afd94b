"""The tokens that a model's outputs stand for, as its own files say."""

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
    """Check that experts have the tokens of their base, as far as the files beside them tell.

    Two vocabularies of one size give weights of one shape, and their merge would be nonsense.

    Args:
        base, experts: model files, or directories of Hugging Face.

    Raises:
        LorsError: they differ; the first difference is shown.
    """
    expected = tokens_of(base)
    if expected is None:
        return
    for expert in experts:
        got = tokens_of(expert)
        if got is None or expected == got:
            continue
        pairs = enumerate(zip_longest(expected, got, fillvalue="(none)"))
        number, (theirs, ours) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        raise LorsError(
            "base model and expert have different vocabularies",
            where=expert,
            expected=f"the {len(expected)} tokens of {base}",
            got=f"{len(got)} tokens; number {number} is {ours}, in the base model {theirs}",
            hint="fine-tune the expert with the token list of its base model",
        )


def tokens_of(model: str | os.PathLike) -> list[str] | None:
    """The tokens of a model in their order; None if no file beside it lists them.

    Known are the ``token_list`` in ESPnet's config.yaml and Hugging Face's vocab.json, whose
    special tokens ``<|...|>`` are left out.

    Args:
        model: a model file, or a directory of Hugging Face.
    """
    path = Path(model)
    directory = path if path.is_dir() else path.parent
    config, vocabulary = directory / ESPNET_CONFIG, directory / HUGGING_FACE_VOCABULARY
    if config.is_file():
        # Parsing a YAML file of some 50 000 tokens takes seconds; its lines tell as much.
        text = config.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^token_list:\n((?:- .*\n)+)", text, re.MULTILINE)
        return [line[2:] for line in found[1].splitlines()] if found else None
    if vocabulary.is_file():
        numbers = read_json(vocabulary)
        # Of Whisper's directories some list <|endoftext|> here, others only among added tokens.
        words = (token for token in numbers if not re.fullmatch(r"<\|.*\|>", token))
        return sorted(words, key=numbers.get)
    return None
