"""Masks of languages: which entries of a model's matrices form the sub-network of each language.

A mask has one bit for every entry of the matrices that a policy prunes; all other tensors belong to
every sub-network. Three kinds of ``.safetensors`` files hold masks:

- masks alone (:func:`write_masks`), with the fingerprint of the base model;
- a model with the masks of all its languages (:func:`write_model_with_masks`);
- one sub-network, packed (:func:`write_subnetwork`): of each matrix only the entries inside the
  mask. ``Checkpoint.open`` reads it as a model, whose other entries are zero.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.checkpoint.places import MASKS, RECIPE_MODEL
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.safetensors_file import HEADER, PREFIX, SafetensorsFile
from lors.checkpoint.writer import CheckpointWriter
from lors.errors import LorsError, UsageError, shortened, unknown_name
from lors.fileio import path_component


class Masks:
    """The masks in a file.

    Args:
        path: a file of one of the three kinds.

    Attributes:
        base: fingerprint of the model that the masks were found on.
        shapes: name of each matrix under the masks -> its shape.
        settings: how the masks were found, e.g. ``{"criterion": "taylor", "rate": 30}``.

    Raises:
        LorsError: the file is missing or damaged, or holds no masks.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise LorsError(
                "no such file of masks",
                where=path,
                hint="find masks first: python -m lors.bin.find_masks",
            )
        self._file = SafetensorsFile(self.path)
        if self._file.masks is None:
            raise LorsError(
                "this file holds no masks of languages",
                where=path,
                expected="a file of python -m lors.bin.find_masks or lors.bin.pack_subnets",
            )
        header = self._file.masks
        self.base, self.shapes, self.settings = header.base, header.shapes, header.settings
        self.entries, self._languages = header.entries, header.languages

    @property
    def languages(self) -> list[str]:
        return list(self._languages)

    def mask(self, lang: str, name: str) -> Tensor:
        """Return the mask of a matrix; UsageError for a language without a mask."""
        self.check_languages([lang])
        return self._file.mask(lang, name)

    def density(self, lang: str) -> float:
        """Return the fraction of all entries that are inside the mask of a language."""
        return sum(int(self.mask(lang, name).sum()) for name in self.shapes) / self.entries

    def check_languages(self, langs: Iterable[str]) -> None:
        """Check that every language has a mask; UsageError with all that have none."""
        missing = [lang for lang in dict.fromkeys(langs) if lang not in self._languages]
        if missing:
            raise unknown_name("language", missing, self.languages, where=f"masks in {self.path}")

    def check_base(self, base: Checkpoint) -> None:
        """Check that the masks were found on this model.

        Raises:
            LorsError: they were found on another one.
        """
        if base.fingerprint() != self.base:
            raise LorsError(
                "these masks belong to another base model",
                where=self.path,
                expected=f"masks of {base.path}, fingerprint {base.fingerprint()}",
                got=f"masks of a model with fingerprint {self.base}",
                hint="find masks on this base model: python -m lors.bin.find_masks",
            )

    def check_structure(self, model: Checkpoint) -> None:
        """Check that a model has the matrices of the masks; LorsError with all that differ."""
        spec = model.spec()
        problems = [
            f"{name}: {list(spec[name][0]) if name in spec else 'missing'}, in the masks "
            f"{list(shape)}"
            for name, shape in self.shapes.items()
            if name not in spec or tuple(spec[name][0]) != shape
        ]
        if problems:
            raise LorsError(
                "these masks do not fit the model",
                where=self.path,
                expected=f"the matrices of {model.path}",
                got=shortened(problems),
                hint="use the masks that the model was trained with",
            )

    def restricted(self, model: Checkpoint, lang: str) -> dict[str, Tensor]:
        """Return the weights of a language's sub-network: zero outside the mask.

        Raises:
            UsageError: the language has no mask.
            LorsError: the masks do not fit the model, or are damaged.
        """
        self.check_languages([lang])
        self.check_structure(model)
        state = {name: model.tensor(name) for name in model.names()}
        for name in self.shapes:
            state[name] = state[name].masked_fill(~self.mask(lang, name), 0)
        return state


def check_unmasked(path: Path) -> None:
    """Check that a model file is used whole: it has no masks, or is one packed sub-network.

    A model that was trained under masks has a sub-network for each language. A program that does
    not know of masks would use all weights together, which were never trained to be.

    Raises:
        LorsError: masks lie beside a recipe's model, or are in the file.
    """
    file = path.with_name(MASKS) if path.name == RECIPE_MODEL else path
    if file.suffix != ".safetensors" or not file.is_file():
        return
    header = SafetensorsFile(file).masks
    if header is None or header.packed:
        return
    raise LorsError(
        "the masks of this model would be lost",
        where=path,
        expected="a model without masks, or the packed sub-network of one language",
        got=f"masks of {', '.join(header.languages)} in {file}",
        hint="give the sub-network of a language, as stage pack of the recipe writes it: "
        "exp/packed/<system>/<lang>/subnetwork.safetensors (python -m lors.bin.pack_subnets)",
    )


def write_masks(
    path: str | os.PathLike,
    base: Checkpoint,
    names: Sequence[str],
    masks: Mapping[str, Mapping[str, Tensor]],
    settings: Mapping[str, Any],
) -> None:
    """Write masks alone.

    Args:
        path: the ``.safetensors`` file to write.
        base: the model that they were found on.
        names: its matrices under the masks, in the order of the bits.
        masks: language -> name -> mask (bool).
        settings: how they were found, JSON-serialisable.
    """
    shapes = {name: base.shape(name) for name in names}
    bits = {lang: pack([of[name] for name in names]) for lang, of in masks.items()}
    header = _header(base.fingerprint(), shapes, bits, settings, packed=False)
    _write(path, {}, None, bits, header)


def write_model_with_masks(
    path: str | os.PathLike, model: Checkpoint, masks: Masks, dtype: torch.dtype | None = None
) -> None:
    """Write a model and the masks of all its languages into one file.

    Args:
        path: the ``.safetensors`` file to write.
        model: the model with all languages.
        masks: its masks.
        dtype: dtype of the floating-point tensors; by default that of the model.

    Raises:
        LorsError: the masks do not fit the model.
    """
    masks.check_structure(model)
    bits = {lang: _bits_of(masks, lang) for lang in masks.languages}
    header = _header(masks.base, masks.shapes, bits, masks.settings, packed=False)
    _write(path, _spec(model, dtype), model, bits, header)


def write_subnetwork(
    path: str | os.PathLike,
    model: Checkpoint,
    masks: Masks,
    lang: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a language's sub-network as a packed model of its own.

    Args:
        path: the ``.safetensors`` file to write.
        model: the model with all languages.
        masks: its masks.
        lang: the language.
        dtype: dtype of the floating-point tensors; by default that of the model.

    Raises:
        UsageError: the language has no mask.
        LorsError: the masks do not fit the model.
    """
    masks.check_languages([lang])
    masks.check_structure(model)
    bits = {lang: _bits_of(masks, lang)}
    spec = _spec(model, dtype)
    for name in masks.shapes:
        spec[name] = ((int(masks.mask(lang, name).sum()),), spec[name][1])
    header = _header(masks.base, masks.shapes, bits, masks.settings, packed=True)
    _write(path, spec, _Packed(model, masks, lang), bits, header)


def _spec(
    model: Checkpoint, dtype: torch.dtype | None
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the spec of a model with its floating-point tensors in another dtype."""
    return {
        name: (shape, dtype if dtype is not None and own.is_floating_point else own)
        for name, (shape, own) in model.spec().items()
    }


class _Packed:
    """The tensors of a packed sub-network."""

    def __init__(self, model: Checkpoint, masks: Masks, lang: str):
        self.model, self.masks, self.lang = model, masks, lang

    def tensor(self, name: str) -> Tensor:
        tensor = self.model.tensor(name)
        if name not in self.masks.shapes:
            return tensor
        return tensor.masked_select(self.masks.mask(self.lang, name))


def pack(masks: Sequence[Tensor]) -> np.ndarray:
    """Return the bits of masks one after the other, the first in the lowest bit of a byte."""
    return np.packbits(np.concatenate([m.numpy().reshape(-1) for m in masks]), bitorder="little")


def _bits_of(masks: Masks, lang: str) -> np.ndarray:
    return pack([masks.mask(lang, name) for name in masks.shapes])


def _header(
    base: str,
    shapes: Mapping[str, Sequence[int]],
    bits: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    packed: bool,
) -> str:
    for lang in bits:
        path_component(lang, "the language of a mask", UsageError)
    return json.dumps(
        {
            "base": base,
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "languages": {lang: xxh3_128(of.data).hexdigest() for lang, of in bits.items()},
            "settings": dict(settings),
            "packed": packed,
        }
    )


def _write(
    path: str | os.PathLike,
    spec: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    model: Checkpoint | _Packed | None,
    bits: Mapping[str, np.ndarray],
    header: str,
) -> None:
    if Path(path).suffix != ".safetensors":
        raise UsageError(
            "masks are written to a .safetensors file",
            where="--out",
            expected="a name that ends in .safetensors",
            got=path,
        )
    masks = {PREFIX + lang: torch.from_numpy(of) for lang, of in bits.items()}
    of_masks = {name: (tuple(mask.shape), mask.dtype) for name, mask in masks.items()}
    with CheckpointWriter(path, {**spec, **of_masks}, metadata={HEADER: header}) as writer:
        if model is not None:
            for name, (_, dtype) in spec.items():
                writer.add(name, model.tensor(name).to(dtype))
        for name, mask in masks.items():
            writer.add(name, mask)
