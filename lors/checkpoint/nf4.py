"""NF4: weights in 4 bits, in blocks with one scale each.

The 16 values are those of NormalFloat (Dettmers et al., QLoRA, arXiv 2305.14314, appendix E):
quantiles of the normal distribution, scaled to -1 ... 1, with an exact zero. A block of weights is
divided by its largest magnitude (absmax), and every weight is replaced by the nearest value.
Codes, scales and their order are those of bitsandbytes. With double quantisation the scales are
stored in 8 bits: minus their mean, in blocks of 256, in the dynamic type of arXiv 2110.02861.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The values of the codes 0 to 15."""
BLOCK = 64
SCALE_BLOCK = 256
"""Scales in a block of the double quantisation."""
SMALLEST = 1e-38
"""Least divisor of a block: a block of zeros stays one of zeros."""


@dataclass(frozen=True)
class Nf4:
    """A tensor in NF4.

    Attributes:
        shape: shape of the tensor.
        codes: uint8 of shape (ceil(numel / 2),), two codes each, the first one in the upper half.
        absmax: of shape (ceil(numel / block),): float32, or uint8 codes of the double quantisation.
        scale: with double quantisation: absmax of every block of scales, float32.
        offset: with double quantisation: mean of all scales, float32 of shape ().
        block: weights in a block.
    """

    shape: tuple[int, ...]
    codes: Tensor
    absmax: Tensor
    scale: Tensor | None = None
    offset: Tensor | None = None
    block: int = BLOCK

    @property
    def nbytes(self) -> int:
        """Size of codes and scales."""
        parts = (self.codes, self.absmax, self.scale, self.offset)
        return sum(part.nbytes for part in parts if part is not None)

    def scales(self) -> Tensor:
        """Return the absmax of every block, float32."""
        if self.scale is None or self.offset is None:
            return self.absmax
        values = _dynamic_values(self.absmax.device)[self.absmax.long()]
        return values * self.scale.repeat_interleave(SCALE_BLOCK)[: len(values)] + self.offset

    def dequantised(self) -> Tensor:
        """Return the weights, float32."""
        return dequantise(self.codes, self.scales(), self.block, self.shape)

    def rows(self, indices: Tensor) -> Tensor:
        """Return rows of a matrix, float32: of shape (*indices.shape, columns).

        Only these rows are dequantised, if a row consists of whole blocks.
        """
        columns = self.shape[1]
        if columns % self.block:
            return self.dequantised()[indices]
        flat = indices.reshape(-1)
        codes = self.codes.view(self.shape[0], columns // 2)[flat].reshape(-1)
        scales = self.scales().view(self.shape[0], -1)[flat].reshape(-1)
        return dequantise(codes, scales, self.block, (*indices.shape, columns))


def quantise(weight: Tensor, block: int = BLOCK, double: bool = False) -> Nf4:
    """Quantise a tensor of finite values to NF4, in the order of its memory.

    Args:
        weight: floating-point tensor of any shape, not empty.
        block: weights that share a scale; an even number.
        double: store the scales in 8 bits.
    """
    flat = weight.detach().reshape(-1).float()
    scaled, absmax = _scaled(flat, block)
    codes = torch.bucketize(scaled, _midpoints(_values(flat.device)), out_int32=True)
    codes = torch.nn.functional.pad(codes.to(torch.uint8), (0, len(flat) % 2), value=7)
    packed = (codes[::2] << 4) | codes[1::2]
    shape = tuple(weight.shape)
    if not double:
        return Nf4(shape, packed, absmax, block=block)
    offset = absmax.mean()
    scaled, scale = _scaled(absmax - offset, SCALE_BLOCK)
    bounds = _midpoints(_dynamic_values(flat.device))
    eight_bits = torch.bucketize(scaled, bounds, out_int32=True).to(torch.uint8)
    return Nf4(shape, packed, eight_bits, scale, offset, block)


def dequantise(codes: Tensor, scales: Tensor, block: int, shape: tuple[int, ...]) -> Tensor:
    """Return the weights of packed codes, float32; by bitsandbytes where it runs.

    Args:
        codes: uint8, as in :class:`Nf4`.
        scales: float32, absmax of every block.
        block: weights in a block.
        shape: shape of the weights.
    """
    numel = math.prod(shape)
    fast = bitsandbytes_dequantise(codes.device.type)
    if fast is not None and numel % 2 == 0 and numel:
        return fast(codes, scales, block, numel).view(shape)
    return dequantise_by_torch(codes, scales, block, numel).view(shape)


def dequantise_by_torch(codes: Tensor, scales: Tensor, block: int, numel: int) -> Tensor:
    """Return float32 of shape (numel,)."""
    # A look-up of both values of a byte as one number of 64 bits: 3 times as fast as one for each.
    found = _pairs(codes.device).index_select(0, codes.int())
    values = found.view(torch.float32)[:numel]
    whole = numel - numel % block
    values[:whole].view(-1, block).mul_(scales[: whole // block, None])
    if whole < numel:
        values[whole:].mul_(scales[-1])
    return values


@functools.cache
def bitsandbytes_dequantise(
    device: str,
) -> Callable[[Tensor, Tensor, int, int], Tensor] | None:
    """Return bitsandbytes' function in place of :func:`dequantise_by_torch`.

    Args:
        device: type of the device, such as ``cpu`` and ``cuda``: a build may fail on one of them.

    Returns:
        None if bitsandbytes is not installed, or gives no or other values on such a device.
    """
    try:
        import bitsandbytes  # noqa: F401 - registers its operators; slow to import
    except Exception:  # not only ImportError: a build for other hardware fails in its own ways
        return None

    def compute(codes: Tensor, scales: Tensor, block: int, numel: int) -> Tensor:
        operator = torch.ops.bitsandbytes.dequantize_4bit
        return operator(codes, scales, block, "nf4", (1, numel), torch.float32).view(-1)

    try:
        probe = quantise(torch.linspace(-1, 1, BLOCK, device=device))
        by_torch = dequantise_by_torch(probe.codes, probe.absmax, BLOCK, BLOCK)
        works = torch.equal(compute(probe.codes, probe.absmax, BLOCK, BLOCK), by_torch)
    except Exception:
        return None
    return compute if works else None


def _scaled(flat: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Divide the values of each block by its absmax; return both, float32."""
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled = (blocks * (1.0 / absmax.clamp(min=SMALLEST))[:, None]).clamp(-1, 1)
    return scaled.view(-1)[: len(flat)], absmax


def _midpoints(values: Tensor) -> Tensor:
    return (values[:-1] + values[1:]) / 2


@functools.cache
def _values(device: torch.device) -> Tensor:
    return torch.tensor(VALUES, dtype=torch.float32, device=device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """Return the two float32 values of every byte, in the bits of one int64: of shape (256,)."""
    byte = torch.arange(256, device=device)
    pairs = torch.stack([_values(device)[byte >> 4], _values(device)[byte & 15]], dim=1)
    return pairs.view(torch.int64).view(-1)


@functools.cache
def _dynamic_values(device: torch.device) -> Tensor:
    """Return the 256 values of the signed dynamic 8-bit type, ascending: float32.

    A value has a sign, an exponent from 1e-6 to 1 and a fraction, the centre of one of 2^e equal
    parts of 0.1 ... 1; 0 and 1 are exact.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        centres = ((edges[:-1] + edges[1:]) / 2).mul(10.0 ** (exponent - 6)).tolist()
        values += [sign * centre for centre in centres for sign in (1, -1)]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)
