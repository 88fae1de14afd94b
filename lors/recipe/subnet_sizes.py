"""``parameters.json``: sizes of models with sub-networks, beside adapters and experts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lors.checkpoint.places import RECIPE_MODEL
from lors.fileio import read_json_object, write_json
from lors.recipe.expdir import LORA, ExpDir
from lors.recipe.report import Section
from lors.tasks import Pair

FILE = "parameters.json"
NOTE = (
    "Used: parameters that compute for a language and task. A further language: its mask, "
    "adapters or experts. MB of files as they are trained; packed sub-networks are smaller."
)


def write_subnet_sizes(expdir: ExpDir, systems: Sequence[str], pairs: Sequence[Pair]) -> None:
    """Write the sizes of the systems that are trained, and of one model or adapter for each pair.

    Args:
        expdir: the experiment; joint model, adapters and experts that it lacks are left out.
        systems: the systems trained under masks.
        pairs: languages and tasks.

    Raises:
        LorsError: a model or a file of masks is missing or damaged.
    """
    from lors.checkpoint.expert import open_model  # torch is slow to import
    from lors.checkpoint.masks import Masks
    from lors.checkpoint.reader import Checkpoint

    base_file = expdir.base / RECIPE_MODEL
    base, base_bytes = open_model(base_file).numel(), base_file.stat().st_size
    langs = list(dict.fromkeys(pair.lang for pair in pairs))
    found: dict[str, dict[str, float]] = {}
    if (expdir.joint / RECIPE_MODEL).exists():
        found["joint"] = _sizes(base, base, base_bytes, 0)
    for system in systems:
        file = expdir.latest_masks(system)
        masks = Masks(file)
        kept = sum(masks.density(lang) for lang in langs) / len(langs) * masks.entries
        size = file.stat().st_size
        used = base - masks.entries + round(kept)
        found[system] = _sizes(base, used, base_bytes + size, size / len(masks.languages))
    adapters = [expdir.model(LORA, pair, ()) / RECIPE_MODEL for pair in pairs]
    if all(file.exists() for file in adapters):
        parameters = [Checkpoint.open(file).numel() for file in adapters]
        size = sum(file.stat().st_size for file in adapters)
        used = base + round(sum(parameters) / len(pairs))
        found[LORA] = _sizes(base + sum(parameters), used, base_bytes + size, size / len(langs))
    experts = [expdir.expert(pair) / RECIPE_MODEL for pair in pairs]
    if all(file.exists() for file in experts):
        size = sum(file.stat().st_size for file in experts)
        found["expert"] = _sizes(base * len(pairs), base, size, size / len(langs))
    write_json(expdir.root / FILE, {"langs": langs, "systems": found})


def _sizes(parameters: int, used: int, size: int, further: float) -> dict[str, float]:
    return {
        "parameters": parameters,
        "used": used,
        "bytes": size,
        "bytes_of_a_further_language": round(further),
    }


def subnet_size_sections(expdirs: Sequence[str | os.PathLike]) -> list[Section]:
    """Return the section on the sizes of the first experiment, if it has them."""
    path = Path(expdirs[0]) / FILE
    if not path.exists():
        return []
    content = read_json_object(path)
    header = ["system", "parameters, million", "used", "% used", "MB", "MB of a further language"]
    rows = [_row(system, sizes) for system, sizes in content["systems"].items()]
    return [Section("Sizes of the systems", header, rows, above=[NOTE])]


def _row(system: str, sizes: dict[str, Any]) -> list[str]:
    used = sizes["used"] / sizes["parameters"]
    return [
        system,
        f"{sizes['parameters'] / 1e6:.3f}",
        f"{sizes['used'] / 1e6:.3f}",
        f"{100 * used:.1f}",
        f"{sizes['bytes'] / 1e6:.2f}",
        f"{sizes['bytes_of_a_further_language'] / 1e6:.2f}",
    ]
