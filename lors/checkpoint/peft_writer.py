"""Write LoRA adapters as PEFT reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lors.checkpoint.hub import hub_name
from lors.checkpoint.lora_files import PEFT_PREFIX
from lors.checkpoint.naming import names_in
from lors.checkpoint.places import PEFT_CONFIG, PEFT_MODEL
from lors.checkpoint.writer import write_tensors
from lors.errors import LorsError, shortened
from lors.fileio import write_json

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Name of a weight -> its factors B (out x k) and A (k x in)."""
WEIGHT = ".weight"


def peft_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of a model's tensors in the program that will load an adapter of it.

    For Whisper it is transformers, whatever the naming scheme of the model is; the names of any
    other model are its own.
    """
    names = list(names)
    try:
        return names_in("huggingface", names)
    except LorsError:
        return {name: name for name in names}


def check_linear(shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Check that tensors are weights of linear layers; LorsError with all that are not."""
    problems = [
        f"{name}: shape {list(shape)}"
        for name, shape in shapes.items()
        if len(shape) != 2 or not name.endswith(WEIGHT)
    ]
    if problems:
        raise LorsError(
            "an adapter cannot hold changes of these tensors",
            where=where,
            expected=f"the weights of linear layers, with names that end in {WEIGHT}",
            got=shortened(problems, 20),
            hint="give a policy that prunes only such weights (--policy), or extract --as lors",
        )


def write_peft(
    directory: Path, factors: Factors, rank: int, names: Iterable[str], base: str | None
) -> None:
    """Write the files of an adapter whose scale is 1 into a directory.

    Args:
        directory: where to write; it exists.
        factors: the factors of each adapted weight; k is at most `rank`. Zeros fill them up to it.
        rank: rank of the adapter.
        names: names of all tensors of the base model.
        base: the base model as PEFT's own record names it.

    Raises:
        LorsError: the disk is too small, or writing fails.
    """
    name_of = peft_names(names)
    modules = {name_of[name].removesuffix(WEIGHT): pair for name, pair in factors.items()}
    tensors: dict[str, Tensor] = {}
    for module, (up, down) in modules.items():
        missing = rank - up.shape[1]
        # The two factors get the same norm, as a training that goes on expects it.
        balance = (torch.linalg.norm(down) / torch.linalg.norm(up)).sqrt()
        padded = {
            "A": torch.nn.functional.pad(down / balance, (0, 0, 0, missing)),
            "B": torch.nn.functional.pad(up * balance, (0, missing)),
        }
        for letter, factor in padded.items():
            name = f"{PEFT_PREFIX}{module}.lora_{letter}{WEIGHT}"
            tensors[name] = factor.float().contiguous()
    write_tensors(directory / PEFT_MODEL, tensors)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": _targets(modules, name_of.values()),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    write_json(directory / PEFT_CONFIG, config)


def _targets(modules: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return what PEFT finds exactly these modules by: the ends of their names, or their names."""
    modules = set(modules)
    ends = {module.rpartition(".")[2] for module in modules}
    weights = {name.removesuffix(WEIGHT) for name in names if name.endswith(WEIGHT)}
    found = {module for module in weights if module.rpartition(".")[2] in ends}
    return sorted(ends if found == modules else modules)


def base_name_for_peft(base: str | os.PathLike) -> str | None:
    """Return the base model for PEFT's record: a directory or a name, which transformers loads.

    None for a model that transformers does not load.
    """
    name = hub_name(base)
    if name is not None and not name.path:
        return name.repo
    return str(base) if Path(base).is_dir() else None
