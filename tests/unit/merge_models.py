"""Small models to merge, with the tensor names of ESPnet: a base model and two experts."""

from __future__ import annotations

from pathlib import Path

import torch

from lors.merge.plan import MergePlan
from lors.merge.run import iter_merged

PRUNED = "encoder.encoders.0.self_attn.linear_q.weight"
BIAS = "encoder.encoders.0.self_attn.linear_q.bias"
PARAMS = {
    "rank": 2,
    "density": 0.1,
    "order": "low_rank_first",
    "threshold": "matrix",
    "keep_norm": False,
    "scaling_coef": 0.5,
}


def model(seed):
    """Return a state dict; models of different seeds are nearer to each other than to zero."""
    generators = [torch.Generator().manual_seed(number) for number in (seed, 1000)]

    def weights(*shape):
        own, common = (torch.randn(*shape, generator=generator) for generator in generators)
        return own + 2 * common

    return {
        "normalize.mean": torch.zeros(3),
        BIAS: weights(8),
        PRUNED: weights(8, 8),
        "decoder.decoders.0.self_attn.linear_q.weight": weights(8, 6),
        "encoder.norm.num_batches_tracked": torch.tensor(seed),
    }


def write_models(folder: Path) -> list[str]:
    """Write base/base.pth, e1.pth and e2.pth; return their paths."""
    (folder / "base").mkdir()
    names = ["base/base.pth", "e1.pth", "e2.pth"]
    for seed, name in enumerate(names):
        torch.save(model(seed), folder / name)
    return [str(folder / name) for name in names]


def plan_of(files: list[str]) -> MergePlan:
    """Return a plan with the parameters PARAMS."""
    return MergePlan(files[0], tuple(files[1:]), "lors", {"rank": 2, "density": 0.1})


def halved(path: str) -> str:
    """Write a copy of a model in float16; return its path."""
    state = torch.load(path)
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    torch.save(half, f"{path}.half.pth")
    return f"{path}.half.pth"


def merged_by(files: list[str], **options) -> dict[str, torch.Tensor]:
    """Return the merged model of a plan with these options."""
    given = {"method": "lors", "params": {"rank": 2, "density": 0.1, "scaling_coef": 0.5}}
    return dict(iter_merged(MergePlan(files[0], tuple(files[1:]), **{**given, **options})))


def names_in(directory: Path) -> list[str]:
    """Return the sorted names in a directory."""
    return sorted(path.name for path in directory.iterdir())


def warnings_in(caplog) -> list[str]:
    """Return the logged warnings."""
    return [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
