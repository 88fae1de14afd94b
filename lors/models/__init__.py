"""Families of models that can be fine-tuned and decoded with; merging needs none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.models.espnet_s2t.family import EspnetS2T
from lors.models.family import Family, Recogniser
from lors.models.whisper.family import Whisper

FAMILIES: Mapping[str, type[Family]] = {of.name: of for of in (EspnetS2T, Whisper)}


def family_from(config: Mapping[str, Any], where: object) -> Family:
    """The family of the model that a ``config.yaml`` (read from `where`) describes."""
    return (Whisper if "whisper_conf" in config else EspnetS2T)(config, where)


def family_of(directory: str | os.PathLike) -> Family:
    """The family of the model in a directory.

    Raises:
        LorsError: there is no ``config.yaml``.
    """
    path = Path(directory) / "config.yaml"
    return family_from(read_yaml(path), path)


def open_recogniser(directory: str | os.PathLike, device: str = "cpu") -> Recogniser:
    """The model of a directory, ready for inference; of an adapter, merged into its base model.

    Raises:
        LorsError: a file is missing or damaged.
    """
    from lors.checkpoint.adapter import open_adapter  # torch is slow to import
    from lors.checkpoint.adapter_base import recorded_base
    from lors.checkpoint.lora_files import is_adapter
    from lors.checkpoint.reader import Checkpoint

    model = Path(directory) / "model.pth"
    adapter = Checkpoint.open(model) if model.exists() else None
    if adapter is None or not is_adapter(adapter):
        return family_of(directory).recogniser(directory, device)
    base = recorded_base(model)
    recogniser = family_of(base.parent).recogniser(base.parent, device)
    adapted = open_adapter(Checkpoint.open(base), adapter)
    recogniser.load_state({name: adapted.tensor(name) for name in adapted.names()})
    return recogniser
