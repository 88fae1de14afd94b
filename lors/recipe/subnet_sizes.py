"""``parameters.json``: sizes of models with sub-networks, beside adapters and experts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.checkpoint.places import RECIPE_MODEL
from lors.fileio import write_json
from lors.recipe.expdir import LORA, ExpDir
from lors.recipe.measured import Count, CountOrZero, read_measured
from lors.recipe.report import Section
from lors.tasks import Pair

FILE = "parameters.json"
NOTE = (
    "Used: parameters that compute for a language and task. A further language: its mask, "
    "adapters or experts. MB of files as they are trained; packed sub-networks are smaller."
)


@dataclass(frozen=True)
class SystemSizes:
    """Sizes of a system.

    Attributes:
        parameters: number of parameters that are trained.
        used: number of those that compute for a language and task.
        bytes: size of its files.
        bytes_of_a_further_language: size of the files that each language has of its own.
    """

    parameters: Count
    used: Count
    bytes: Count
    bytes_of_a_further_language: CountOrZero


@dataclass(frozen=True)
class SubnetSizes:
    """The content of ``parameters.json``.

    Attributes:
        langs: the languages.
        systems: system -> its sizes.
    """

    langs: tuple[str, ...]
    systems: dict[str, SystemSizes]


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
    found: dict[str, SystemSizes] = {}
    if (expdir.joint / RECIPE_MODEL).exists():
        found["joint"] = SystemSizes(base, base, base_bytes, 0)
    for system in systems:
        file = expdir.latest_masks(system)
        masks = Masks(file)
        kept = sum(masks.density(lang) for lang in langs) / len(langs) * masks.entries
        size = file.stat().st_size
        used = base - masks.entries + round(kept)
        found[system] = SystemSizes(
            *(base, used, base_bytes + size, round(size / len(masks.languages)))
        )
    adapters = [expdir.model(LORA, pair, ()) / RECIPE_MODEL for pair in pairs]
    if all(file.exists() for file in adapters):
        parameters = [Checkpoint.open(file).numel() for file in adapters]
        size = sum(file.stat().st_size for file in adapters)
        used = base + round(sum(parameters) / len(pairs))
        found[LORA] = SystemSizes(
            *(base + sum(parameters), used, base_bytes + size, round(size / len(langs)))
        )
    experts = [expdir.expert(pair) / RECIPE_MODEL for pair in pairs]
    if all(file.exists() for file in experts):
        size = sum(file.stat().st_size for file in experts)
        further = round(size / len(langs))
        found["expert"] = SystemSizes(base * len(pairs), base, size, further)
    write_json(expdir.root / FILE, dataclasses.asdict(SubnetSizes(tuple(langs), found)))


def subnet_size_files(expdirs: Sequence[str | os.PathLike]) -> list[Path]:
    """Return the ``parameters.json`` of the first experiment, if it has one."""
    path = Path(expdirs[0]) / FILE
    return [path] if path.exists() else []


def subnet_size_sections(expdirs: Sequence[str | os.PathLike]) -> list[Section]:
    """Return the section on the sizes of the first experiment, if it has them.

    Raises:
        LorsError: the file is malformed.
    """
    return [_section(file) for file in subnet_size_files(expdirs)]


def _section(file: Path) -> Section:
    sizes = read_measured(SubnetSizes, file, "overlap")
    header = ["system", "parameters, million", "used", "% used", "MB", "MB of a further language"]
    rows = [_row(system, of) for system, of in sizes.systems.items()]
    return Section("Sizes of the systems", header, rows, above=[NOTE])


def _row(system: str, sizes: SystemSizes) -> list[str]:
    return [
        system,
        f"{sizes.parameters / 1e6:.3f}",
        f"{sizes.used / 1e6:.3f}",
        f"{100 * sizes.used / sizes.parameters:.1f}",
        f"{sizes.bytes / 1e6:.2f}",
        f"{sizes.bytes_of_a_further_language / 1e6:.2f}",
    ]
