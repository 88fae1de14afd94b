"""Model families for fine-tuning and inference; merging needs none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lors.checkpoint.places import model_in
from lors.config import read_yaml
from lors.errors import LorsError
from lors.models.espnet_s2t import family as _espnet_s2t  # noqa: F401 - registers its family
from lors.models.family import FAMILIES, Family, Recogniser
from lors.models.wav2vec2 import family as _wav2vec2  # noqa: F401 - registers its family
from lors.models.whisper import family as _whisper  # noqa: F401 - registers its family

for _entry in entry_points(group="lors.model_families"):
    _entry.load()


def family_from(config: Mapping[str, Any], where: object) -> Family:
    """Return the family of the model that `config` describes.

    Args:
        config: the content of a ``config.yaml``.
        where: the file of `config`, for error messages.

    Raises:
        LorsError: no family recognises `config`, or more than one does.
    """
    found = [family for family in FAMILIES.values() if family.matches(config)]
    if len(found) != 1:
        raise LorsError(
            "the model family cannot be told from this configuration",
            where=where,
            expected=f"a model of exactly one of: {', '.join(sorted(FAMILIES))}",
            got=", ".join(family.name for family in found) or "none of them",
        )
    return found[0](config, where)


def family_of(directory: str | os.PathLike) -> Family:
    """Return the family of the model in a directory; a small expert has that of its base model.

    Raises:
        LorsError: there is no ``config.yaml``, or no family recognises it.
    """
    path = Path(directory) / "config.yaml"
    if not path.exists() and (base := _base_of(directory)):
        path = base.with_name(path.name)
    return family_from(read_yaml(path), path)


def _base_of(directory: str | os.PathLike) -> Path | None:
    """Return the base model of a small expert in a directory; None for any other directory."""
    from lors.checkpoint.expert import base_of  # torch is slow to import
    from lors.checkpoint.quantised import is_quantised

    path = model_in(Path(directory))
    return base_of(path) if path.exists() and not is_quantised(directory) else None


def open_recogniser(directory: str | os.PathLike, device: str = "cpu") -> Recogniser:
    """Load the model of a directory for inference; a small expert is added to its base model.

    Raises:
        LorsError: a file is missing or damaged.
    """
    from lors.checkpoint.expert import open_expert  # torch is slow to import
    from lors.checkpoint.quantised import is_quantised, open_base

    base = _base_of(directory)
    if base is None:
        return family_of(directory).recogniser(directory, device)
    recogniser = family_of(base.parent).recogniser(base.parent, device)
    expert = open_expert(open_base(base), model_in(Path(directory)))
    if not is_quantised(base.parent):
        recogniser.load_state({name: expert.tensor(name) for name in expert.names()})
        return recogniser
    found = ((name, expert.factors(name)) for name in expert.names())
    factors = {name: of for name, of in found if of is not None}
    if not factors:
        raise LorsError(
            "only adapters can be added to a quantised model",
            where=directory,
            hint="add this expert to the model in full precision",
        )
    recogniser.adapt(factors)
    return recogniser
