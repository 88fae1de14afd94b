"""LoRA layers that ESPnet and loralib lack (one-dimensional convolutions), and exact names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import loralib
import torch
from torch import Tensor, nn
from torch.nn import functional


class LoraConv1d(nn.Conv1d, loralib.LoRALayer):
    """A convolution with the adapter of a matrix of shape (out, in * kernel).

    As in PEFT: A is a convolution of `rank` channels, B mixes them. The weight is never changed.

    Args:
        layer: the convolution, whose weight and bias are taken over.
        rank, alpha, dropout_rate: as in ESPnet's ``adapter_conf``.
    """

    r: int
    lora_dropout: Callable[[Tensor], Tensor]

    def __init__(self, layer: nn.Conv1d, rank: int, alpha: float, dropout_rate: float):
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size[0])
        same = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
        nn.Conv1d.__init__(self, *sizes, **same, bias=layer.bias is not None)
        loralib.LoRALayer.__init__(self, rank, alpha, dropout_rate, merge_weights=False)
        dropout_as_function(self)
        self.weight, self.bias = layer.weight, layer.bias
        inputs = layer.in_channels * layer.kernel_size[0]
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(layer.out_channels, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (batch, in, time)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = self._conv_forward(x, self.weight.to(x.dtype), bias)
        down = self.lora_A.view(self.r, self.in_channels, -1).to(x.dtype)
        hidden = functional.conv1d(
            self.lora_dropout(x), down, None, self.stride, self.padding, self.dilation
        )
        return y + functional.conv1d(hidden, self.lora_B[:, :, None].to(x.dtype)) * self.scaling


def convolutions_to_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 8,
    dropout_rate: float = 0.0,
    target_modules: Sequence[str] = (),
    **_: Any,
) -> None:
    """Replace the convolutions among `target_modules` (ends of names) by layers with LoRA."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv1d) and name.endswith(tuple(target_modules)):
            parent, _, child = name.rpartition(".")
            if module.groups == 1 and module.padding_mode == "zeros":
                new = LoraConv1d(module, rank, alpha, dropout_rate).to(module.weight.device)
                setattr(model.get_submodule(parent), child, new)


def dropout_as_function(model: nn.Module) -> None:
    """Make the dropout of LoRA layers a function, which is no module with a name of its own.

    ESPnet looks for target modules by the ends of their names, and once more in a model that has
    adapters already: ``out``, a layer of Whisper's attention, is the end of ``lora_dropout`` too.
    """
    for layer in list(model.modules()):
        dropout = layer._modules.get("lora_dropout")
        if isinstance(dropout, nn.Dropout):
            del layer.lora_dropout
            # torch declares tensors and modules as the only attributes of a module.
            layer.lora_dropout = functools.partial(_dropped, layer, dropout.p)  # type: ignore[assignment]


def _dropped(layer: nn.Module, rate: float, x: Tensor) -> Tensor:
    return functional.dropout(x, rate, layer.training)
