#!/usr/bin/env python3
"""Measure what masks of languages add to a step of training.

Usage: utils/bench/masks.py [--width 512] [--layers 12] [--rounds 3] [--json FILE]

The matrices are those of a Whisper with so many layers of such a width (512 and 12: Whisper-base,
six layers of the encoder and six of the decoder), with random values, and masks of two languages
that hold 70 % of them, in turns. The model does nothing but to sum its weights, so that a step is
made of the masks and of AdamW (fused). Three kinds of steps take turns in each round:

- none: without masks;
- lors: lors.subnet.training, as in stage subnets;
- plain: the same by operations of torch on booleans, and a power of beta for each entry.

The figures are CPU seconds of one thread a step, the median of all rounds, for the forward pass,
the backward pass, and the optimiser. The weights after the steps of lors and of plain have to
agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lors.checkpoint.masks import Masks, write_masks
from lors.checkpoint.reader import Checkpoint
from lors.subnet.training import SubnetworkTraining

LANGS = ("de", "es")
PARTS = ("forward", "backward", "optimiser")
KEPT = 0.7
WARM_UP = 2


class Weights(nn.Module):
    """The matrices of a Whisper; its output is their sum, weighted by a batch."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        torch.manual_seed(0)
        for layer in range(layers):
            attentions = 2 if layer % 2 else 1  # every second layer is one of the decoder
            for i in range(4 * attentions):
                self.register_parameter(f"{layer}_att_{i}", _matrix(width, width))
            self.register_parameter(f"{layer}_up", _matrix(4 * width, width))
            self.register_parameter(f"{layer}_down", _matrix(width, 4 * width))

    def forward(self, scale: float, utt_id: list[str]) -> Tensor:
        return scale * torch.stack([weight.sum() for weight in self.parameters()]).sum()


def _matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) / columns**0.5)


class PlainTraining:
    """Training under masks by the operations that say what is meant."""

    def __init__(self, model: nn.Module, masks: dict[str, dict[str, Tensor]]):
        self.parameters, self.masks = dict(model.named_parameters()), masks
        self.updates = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def enter(self, lang: str) -> None:
        self.inside = self.masks[lang]
        self.kept = {name: p.data.clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data.masked_fill_(~self.inside[name], 0)

    def step(self, optimizer: torch.optim.AdamW) -> None:
        states = {name: optimizer.state.get(p, {}) for name, p in self.parameters.items()}
        before = {
            name: {key: state[key].clone() for key in ("exp_avg", "exp_avg_sq") if key in state}
            for name, state in states.items()
        }
        for name, parameter in self.parameters.items():
            parameter.grad.masked_fill_(~self.inside[name], 0)
        optimizer.step()
        [group] = optimizer.param_groups
        for name, parameter in self.parameters.items():
            inside, kept, state = self.inside[name], self.kept[name], optimizer.state[parameter]
            for key, value in before[name].items():
                state[key] = torch.where(inside, state[key], value)
            self.updates[name] += inside
            root, lengths = state["exp_avg_sq"].sqrt(), []
            for updates in (self.updates[name].clamp(min=1), state["step"]):
                first, second = (-torch.expm1(updates * math.log(b)) for b in group["betas"])
                lengths.append(1 / (first * (root / second.sqrt() + group["eps"])))
            decayed = kept * (1 - group["lr"] * group["weight_decay"])
            values = torch.lerp(decayed, parameter.data, lengths[0] / lengths[1])
            parameter.data = torch.where(inside, values, kept)


def measure(kind: str, args: argparse.Namespace, masks: Masks) -> tuple[list[list[float]], Tensor]:
    """Return the CPU seconds of the parts of each step, and all weights at the end.

    Args:
        kind: none, lors or plain.
        args: the options.
        masks: the masks.
    """
    model = Weights(args.width, args.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    if kind == "lors":
        SubnetworkTraining(model, masks, {lang: lang for lang in LANGS}).guard(optimizer)
    elif kind == "plain":
        by_name = {lang: {n: masks.mask(lang, n) for n in masks.shapes} for lang in LANGS}
        plain = PlainTraining(model, by_name)
    found = []
    for step in range(WARM_UP + args.steps):
        lang = LANGS[step % 2]
        times = [time.process_time()]
        if kind == "plain":
            plain.enter(lang)
        loss = model(1 + step % 3, utt_id=[lang])
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        plain.step(optimizer) if kind == "plain" else optimizer.step()
        times.append(time.process_time())
        optimizer.zero_grad()
        found.append([after - before for before, after in itertools.pairwise(times)])
    return found[WARM_UP:], torch.cat([value.flatten() for value in model.state_dict().values()])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=512, help="of the model")
    parser.add_argument("--layers", type=int, default=12, help="half of them of the decoder")
    parser.add_argument("--steps", type=int, default=4, help="of a kind in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the seconds of all steps to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = Weights(args.width, args.layers)
    chosen = {
        lang: {name: torch.rand(p.shape) < KEPT for name, p in model.named_parameters()}
        for lang in LANGS
    }
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in ("none", "lors", "plain")}
    ends = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), f"{folder}/model.pth")
        base = Checkpoint.open(f"{folder}/model.pth")
        write_masks(f"{folder}/masks.safetensors", base, list(chosen["de"]), chosen, {})
        masks = Masks(f"{folder}/masks.safetensors")
        for _ in range(args.rounds):
            for kind, found in seconds.items():
                steps, ends[kind] = measure(kind, args, masks)
                found += steps
    torch.testing.assert_close(ends["lors"], ends["plain"], rtol=1e-4, atol=1e-6)
    entries = sum(p.numel() for p in model.parameters())
    print(f"{entries / 1e6:.1f} million entries, CPU seconds a step\n")
    print("masks     " + "".join(f"{part:>11}" for part in PARTS) + "        all")
    for kind, steps in seconds.items():
        parts = [statistics.median(part) for part in zip(*steps, strict=True)]
        print(f"{kind:10}" + "".join(f"{value:11.3f}" for value in (*parts, sum(parts))))
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
