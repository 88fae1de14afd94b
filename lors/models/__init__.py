"""Model families for fine-tuning and inference; merging needs none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.checkpoint.places import model_in
from lors.config import read_yaml
from lors.errors import LorsError, shortened
from lors.models.espnet_s2t import family as _espnet_s2t  # noqa: F401 - registers its family
from lors.models.family import FAMILIES, Family, Recogniser
from lors.models.wav2vec2 import family as _wav2vec2  # noqa: F401 - registers its family
from lors.models.whisper import family as _whisper  # noqa: F401 - registers its family

if TYPE_CHECKING:
    from torch import Tensor

    from lors.checkpoint.quantised import QuantisedCheckpoint
    from lors.checkpoint.reader import Checkpoint

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
        LorsError: a file is missing or damaged, or the base model is quantised and the expert is
            more than an adapter of its weights in 4 bits.
    """
    from lors.checkpoint.expert import open_expert  # torch is slow to import
    from lors.checkpoint.quantised import QuantisedCheckpoint, open_base

    place = _base_of(directory)
    if place is None:
        return family_of(directory).recogniser(directory, device)
    recogniser = family_of(place.parent).recogniser(place.parent, device)
    base = open_base(place)
    expert = open_expert(base, model_in(Path(directory)))
    if isinstance(base, QuantisedCheckpoint):
        recogniser.adapt(_factors(base, expert))
    else:
        recogniser.load_state({name: expert.tensor(name) for name in expert.names()})
    return recogniser


def _factors(base: QuantisedCheckpoint, expert: Checkpoint) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factors of an adapter of a quantised model.

    Raises:
        LorsError: the expert is no adapter, or changes weights without factors.
    """
    from lors.checkpoint.adapter import AdaptedCheckpoint  # torch is slow to import

    found = ((name, expert.factors(name)) for name in expert.names())
    factors = {name: of for name, of in found if of is not None}
    if isinstance(expert, AdaptedCheckpoint):  # its other tensors are those of the base model
        whole = expert.stored_whole() - {*factors}
    else:
        whole = {*expert.names()} - {*base.quantised_names()}
    changed = [
        n for n in sorted(whole) if (expert.tensor(n).float() != base.tensor(n).float()).any()
    ]
    if changed or not factors:
        raise LorsError(
            "only adapters can be added to a quantised model",
            where=expert.path,
            got=shortened((f"{name}: another weight, without factors" for name in changed), 20)
            or "no factors",
            hint="add this expert to the model in full precision",
        )
    return factors
