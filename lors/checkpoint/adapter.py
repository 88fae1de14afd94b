"""Low-rank adapters (LoRA) as models: a base model with an adapter is read like any checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from xxhash import xxh3_128

from lors.checkpoint.adapter_base import check_base
from lors.checkpoint.based import BasedCheckpoint
from lors.checkpoint.finite import all_finite
from lors.checkpoint.lora_files import LoraFile, not_plain, read_espnet, read_peft
from lors.checkpoint.naming import counterparts, ties
from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError


class AdaptedCheckpoint(BasedCheckpoint):
    """A base model with an adapter merged into it; the merged tensors are computed when read.

    Args:
        base: the model that the adapter was trained on.
        path: the PEFT directory or the ESPnet checkpoint of the adapter.
        adapter: the adapter.

    Raises:
        LorsError: the adapter does not fit the base model, or is more than a plain LoRA.
    """

    def __init__(self, base: Checkpoint, path: Path, adapter: LoraFile):
        super().__init__(base, path)
        self._tensors, self._config = adapter.tensors, adapter.config
        self._weights_are_base = adapter.weights_are_base
        whole = self._without_ties(adapter)
        own = [*adapter.factors, *whole]
        base_name = {name: name for name in own}
        base_name |= {name: match for match, name in counterparts(base.names(), own).items()}
        self._factors = {base_name[name]: pair for name, pair in adapter.factors.items()}
        self._scale = {base_name[name]: scale for name, scale in adapter.scale.items()}
        self._whole = {base_name[name]: key for name, key in whole.items()}
        self._check_fit(
            [
                *((name, self._tensors.shape(key)) for name, key in self._whole.items()),
                *(
                    (name, self._shape_of_product(name, up, down))
                    for name, (up, down) in self._factors.items()
                ),
            ]
        )
        self._check_unchanged(adapter, {base_name[name]: name for name in own})

    def _without_ties(self, adapter: LoraFile) -> dict[str, str]:
        """Return the weights without factors, each tied weight once.

        Raises:
            LorsError: a tied weight differs from the one that it repeats in the model, or has
                factors of its own.
        """
        whole, problems = dict(adapter.whole), []
        for name, original in ties().items():
            if name in adapter.factors:
                problems.append(f"{name}: factors for a weight that is tied to {original}")
            if name not in whole:
                continue
            repeated = adapter.tensors.tensor(whole.pop(name))
            first = whole.setdefault(original, adapter.whole[name])
            if not torch.equal(repeated, adapter.tensors.tensor(first)):
                problems.append(f"{name}: differs from {original}, to which it is tied")
        if problems:
            raise not_plain(adapter.config, problems)
        return whole

    def _check_unchanged(self, adapter: LoraFile, own_name: Mapping[str, str]) -> None:
        """Check weights that the adapter must have as they are in the base model.

        Args:
            own_name: name in the base model -> name in the adapter.

        Raises:
            LorsError: the adapter of PEFT stores another weight below its factors, or another
                weight of an embedding whose output layer stayed as it was.
        """
        names = self._factors.keys() & self._whole.keys() if adapter.weights_are_base else set()
        if not adapter.keeps_ties:
            names |= {name for name in self._whole if own_name[name] in ties().values()}
        changed = [
            name
            for name in names
            if not torch.equal(
                self._tensors.tensor(self._whole[name]).float(), self._base.tensor(name).float()
            )
        ]
        if changed:
            problems = [f"{name}: other values than in {self._base.path}" for name in changed]
            raise not_plain(adapter.config, sorted(problems))

    def files(self) -> list[Path]:
        return [*self._tensors.files(), self._config]

    def tensor(self, name: str) -> Tensor:
        base = self._base.tensor(name)
        product = self._product(name)
        if product is None:
            return self._tensors.tensor(self._whole[name]) if name in self._whole else base
        return (base.double() + product).to(base.dtype)

    def delta(self, name: str) -> Tensor | None:
        product = self._product(name)
        return None if product is None else product.float()

    def _product(self, name: str) -> Tensor | None:
        """Return the product of the factors of a tensor in float64; None without factors."""
        factors = self.factors(name)
        if factors is None:
            return None
        return (factors[0].double() @ factors[1].double()).view(self.shape(name))

    def _shape_of_product(self, name: str, up: str, down: str) -> tuple[int, ...]:
        """Return the shape of the product of factors, for a convolution that of its weight."""
        product = (self._tensors.shape(up)[0], self._tensors.shape(down)[1])
        expected = self._base.shape(name) if name in self._base.names() else ()
        is_convolution = len(expected) > 2 and product == (expected[0], math.prod(expected[1:]))
        return expected if is_convolution else product

    def stored_whole(self) -> set[str]:
        """Return the tensors that the adapter stores, by their names in the base model."""
        return {*self._whole}

    def is_adapted(self, name: str) -> bool:
        if name not in self._factors or name not in self._whole or self._weights_are_base:
            return name in self._factors
        # A stored weight that differs from the base model's already contains the product B A.
        return self._tensors.digest(self._whole[name]) == self._base.digest(name)

    def factors(self, name: str) -> tuple[Tensor, Tensor] | None:
        if not self.is_adapted(name):
            return None
        up, down = (self._tensors.tensor(key).float() for key in self._factors[name])
        scaled = up * self._scale[name]
        if all_finite(up) and not all_finite(scaled):
            raise LorsError(
                "the scale of this adapter is too large for float32",
                where=f"{self._config}: {name}",
                got=f"alpha / rank = {self._scale[name]:g}",
                hint="correct alpha to the value that the adapter was trained with",
            )
        return scaled, down

    def fingerprint(self) -> str:
        """Return the hash of the adapter's tensors and scales; the base model is not included.

        The hash depends neither on the formula of a scale (alpha / r or alpha / sqrt(r)) nor on the
        naming scheme of the base model.
        """
        # Names in the adapter's file, not the base model's. Rounded, because alpha / r and
        # alpha / sqrt(r) may give the same scale with another last digit.
        scales = sorted(
            (self._factors[name][0], f"{scale:.12g}") for name, scale in self._scale.items()
        )
        return xxh3_128(f"{self._tensors.fingerprint()} {scales}".encode()).hexdigest()

    def note(self, name: str) -> None:
        for key in (*self._factors.get(name, ()), *filter(None, [self._whole.get(name)])):
            self._tensors.digest(key)


def open_adapter(base: Checkpoint, adapter: Path | Checkpoint) -> AdaptedCheckpoint:
    """Open an adapter as the base model with the adapter merged into it.

    Logs a warning if the base model of the adapter is not recorded.

    Args:
        base: the base model.
        adapter: a PEFT directory, or an ESPnet checkpoint with LoRA factors in it
            (:func:`lors.checkpoint.lora_files.is_adapter`).

    Raises:
        LorsError: a file is missing or damaged, a factor lacks its partner, the adapter is not a
            plain LoRA (e.g. DoRA), or it was trained on another model than `base`.
    """
    path = adapter if isinstance(adapter, Path) else adapter.path
    lora = read_peft(adapter) if isinstance(adapter, Path) else read_espnet(adapter)
    check_base(base, path, lora.trained_on)
    return AdaptedCheckpoint(base, path, lora)
