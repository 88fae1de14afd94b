"""Model families for fine-tuning and inference; merging needs none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.errors import LorsError
from lors.models.espnet_s2t import family as _espnet_s2t  # noqa: F401 - registers its family
from lors.models.family import FAMILIES, Family, Recogniser
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
    """Return the family of the model in a directory.

    Raises:
        LorsError: there is no ``config.yaml``, or no family recognises it.
    """
    path = Path(directory) / "config.yaml"
    return family_from(read_yaml(path), path)


def open_recogniser(directory: str | os.PathLike, device: str = "cpu") -> Recogniser:
    """Load the model of a directory for inference; an adapter is added to its base model.

    Raises:
        LorsError: a file is missing or damaged.
    """
    from lors.checkpoint.adapter import open_adapter  # torch is slow to import
    from lors.checkpoint.adapter_base import recorded_base
    from lors.checkpoint.lora_files import is_adapter
    from lors.checkpoint.quantised import is_quantised, open_base
    from lors.checkpoint.reader import Checkpoint

    model = Path(directory) / "model.pth"
    adapter = Checkpoint.open(model) if model.exists() else None
    if adapter is None or not is_adapter(adapter):
        return family_of(directory).recogniser(directory, device)
    base = recorded_base(model)
    recogniser = family_of(base.parent).recogniser(base.parent, device)
    adapted = open_adapter(open_base(base), adapter)
    if is_quantised(base.parent):
        names = filter(adapted.is_adapted, adapted.names())
        recogniser.adapt({name: adapted.factors(name) for name in names})
        return recogniser
    recogniser.load_state({name: adapted.tensor(name) for name in adapted.names()})
    return recogniser
