"""Layers whose weights stay in 4 bits in memory and are dequantised at each use.

A layer keeps its code: a subclass made for it replaces the parameter ``weight`` by a property that
dequantises. Attention, embeddings and decoding of OpenAI and ESPnet read ``weight`` and need no
change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lors.checkpoint.nf4 import Nf4
from lors.checkpoint.quantised import QuantisedCheckpoint
from lors.errors import LorsError, shortened

PARTS = ("codes", "absmax", "scale", "offset")
_PREFIX = "nf4_"


class Nf4Weight:
    """Part of a layer's class: the weight is in NF4, and an adapter may be added to it."""

    _nf4_shape: tuple[int, ...]
    _nf4_block: int
    nf4_codes: Tensor
    nf4_absmax: Tensor
    nf4_scale: Tensor | None
    nf4_offset: Tensor | None
    nf4_up: Tensor | None
    nf4_down: Tensor | None

    @property
    def nf4(self) -> Nf4:
        """The weight without an adapter."""
        parts = (self.nf4_codes, self.nf4_absmax, self.nf4_scale, self.nf4_offset)
        return Nf4(self._nf4_shape, *parts, self._nf4_block)

    @property
    def weight(self) -> Tensor:
        """The weight, with the adapter of :func:`adapt`: float32, made for this use."""
        weight = self.nf4.dequantised()
        if self.nf4_up is None or self.nf4_down is None:
            return weight
        return weight + (self.nf4_up @ self.nf4_down).view(weight.shape)


class _Nf4Linear(Nf4Weight):
    """A linear layer; its backward pass dequantises again, so that no weight waits in memory."""

    bias: Tensor | None
    lora_dropout: Callable[[Tensor], Tensor]
    lora_A: Tensor
    lora_B: Tensor
    scaling: float

    def forward(self, x: Tensor) -> Tensor:
        y = _FrozenLinear.apply(x, self)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)
        if getattr(self, "r", 0) > 0:  # loralib's layer, in training
            dropped = self.lora_dropout(x)
            product = functional.linear(functional.linear(dropped, self.lora_A), self.lora_B)
            y = y + product * self.scaling
        return y


class _Nf4Embedding(Nf4Weight):
    """An embedding, which dequantises only the rows that it looks up."""

    def forward(self, indices: Tensor) -> Tensor:
        if self.nf4_up is not None:
            return functional.embedding(indices, self.weight)
        return self.nf4.rows(indices)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Weight) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        weight = layer.weight
        if not torch.is_autocast_enabled(x.device.type):  # which chooses the dtype itself
            weight = weight.to(x.dtype)
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


@functools.cache
def _subclass(cls: type[nn.Module]) -> type[nn.Module]:
    part: type = Nf4Weight
    if issubclass(cls, nn.Linear):
        part = _Nf4Linear
    elif issubclass(cls, nn.Embedding):
        part = _Nf4Embedding
    return type(f"Nf4{cls.__name__}", (part, cls), {"__module__": cls.__module__})


def put_nf4(layer: nn.Module, packed: Nf4) -> None:
    """Replace the parameter ``weight`` of a layer by a weight in NF4."""
    device = layer.weight.device
    del layer._parameters["weight"]
    for part in PARTS:
        value = getattr(packed, part)
        layer.register_buffer(_PREFIX + part, None if value is None else value.to(device))
    for name in ("nf4_up", "nf4_down"):
        layer.register_buffer(name, None, persistent=False)
    cls = _subclass(type(layer))  # type: ignore[arg-type] # torch types hashes of instances only
    layer.__class__ = cls
    quantised = cast(Nf4Weight, layer)
    quantised._nf4_shape, quantised._nf4_block = packed.shape, packed.block


def load_quantised(model: nn.Module, checkpoint: QuantisedCheckpoint) -> None:
    """Put the weights of a quantised model into a model; all of them are frozen.

    Args:
        model: a model in full precision; LoRA layers of loralib in it stay trainable.
        checkpoint: the quantised model.

    Raises:
        LorsError: names or shapes differ from the model's.
    """
    expected = {n: v for n, v in model.state_dict().items() if ".lora_" not in n}
    spec = checkpoint.spec()
    problems = [f"{n}: missing" for n in expected if n not in spec]
    problems += [f"{n}: not in the model" for n in spec if n not in expected]
    problems += [
        f"{n}: shape {list(spec[n][0])}, in the model {list(value.shape)}"
        for n, value in expected.items()
        if n in spec and tuple(value.shape) != spec[n][0]
    ]
    if problems:
        raise LorsError(
            "quantised weights of another model", where=checkpoint.path, got=shortened(problems, 20)
        )
    in_nf4 = set(checkpoint.quantised_names())
    whole = {n: checkpoint.tensor(n) for n in spec if n not in in_nf4}
    model.load_state_dict(whole, strict=False)
    for name in in_nf4:
        put_nf4(model.get_submodule(name.removesuffix(".weight")), checkpoint.nf4(name))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name
    for module in model.modules():
        if hasattr(module, "merge_weights"):  # of loralib: it would add the adapter to the weight
            for attribute in ("merge_weights", "merged"):
                setattr(module, attribute, False)


def adapt(model: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Add an adapter to a quantised model for inference; the weights in 4 bits stay as they are.

    Args:
        model: a model from :func:`load_quantised`.
        factors: name of a weight -> factors (B, A), scale included; an earlier adapter is replaced.

    Raises:
        LorsError: factors of a weight that is not in 4 bits.
    """
    layers = {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, Nf4Weight)
    }
    if others := [name for name in factors if name not in layers]:
        raise LorsError(
            "an adapter of layers whose weights are not in 4 bits",
            expected="factors of weights in 4 bits only",
            got=shortened(others, 20),
            hint="add this adapter to the model in full precision",
        )
    for name, layer in layers.items():
        up, down = factors.get(name, (None, None))
        device = layer.nf4_codes.device
        layer.nf4_up = None if up is None else up.to(device)
        layer.nf4_down = None if down is None else down.to(device)


def bytes_in_memory(model: nn.Module) -> int:
    """Return the size of all parameters and buffers, each tensor counted once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    # OpenAI's mask of alignment heads is sparse, and a few bytes.
    return sum(tensor.nbytes for tensor in tensors.values() if not tensor.is_sparse)
