"""``parameters.json``: sizes of models with sub-networks, beside adapters and experts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lors.checkpoint.places import RECIPE_MODEL
from lors.fileio import file_digest, write_json
from lors.recipe.expdir import LORA, ExpDir
from lors.recipe.measured import Count, CountOrZero, read_measured
from lors.recipe.report import Section
from lors.tasks import Pair

if TYPE_CHECKING:
    from lors.checkpoint.reader import Checkpoint

FILE = "parameters.json"
NOTE = (
    "Used: parameters that compute for a language and task. A further language: its mask, "
    "adapters or experts. MB of files as they are trained; packed sub-networks are smaller."
)
FOUND_AGAIN = (
    "Masks found twice (--mask_rounds 2): {}. Sizes and overlap are those of the second masks, "
    "found on the model after half of the training; the merges masked_* have the first ones."
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
        found_again: the systems whose masks were found again after half of the training.
    """

    langs: tuple[str, ...]
    systems: dict[str, SystemSizes]
    found_again: tuple[str, ...] = ()


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

    base_file = expdir.base / RECIPE_MODEL
    model, base_bytes = open_model(base_file), base_file.stat().st_size
    base = model.numel()
    langs = list(dict.fromkeys(pair.lang for pair in pairs))
    found: dict[str, SystemSizes] = {}
    if (joint := expdir.joint / RECIPE_MODEL).exists():
        of_all = _sizes_of([joint], model, base_bytes, langs)
        found["joint"] = dataclasses.replace(of_all, bytes_of_a_further_language=0)
    for system in systems:
        file = expdir.latest_masks(system)
        masks = Masks(file)
        kept = sum(masks.density(lang) for lang in langs) / len(langs) * masks.entries
        size = file.stat().st_size
        used = base - masks.entries + round(kept)
        found[system] = SystemSizes(
            *(base, used, base_bytes + size, round(size / len(masks.languages)))
        )
    for system in (LORA, "expert"):
        files = [expdir.model(system, pair, ()) / RECIPE_MODEL for pair in pairs]
        if all(file.exists() for file in files):
            found[system] = _sizes_of(files, model, base_bytes, langs)
    again = tuple(system for system in systems if _found_again(expdir, system))
    write_json(expdir.root / FILE, dataclasses.asdict(SubnetSizes(tuple(langs), found, again)))


def _found_again(expdir: ExpDir, system: str) -> bool:
    """Return whether a model has the masks of its first half, and not those of a run without."""
    second = expdir.half(system).masks(system)
    return second.exists() and file_digest(second) == file_digest(expdir.latest_masks(system))


def _sizes_of(
    files: Sequence[Path], base: Checkpoint, base_bytes: int, langs: Sequence[str]
) -> SystemSizes:
    """Return the sizes of full models, or of the base model and adapters.

    Args:
        files: a model for each pair, or one for all.
        base: the base model.
        base_bytes: size of its file.
        langs: the languages.
    """
    from lors.checkpoint.lora_files import is_adapter  # torch is slow to import
    from lors.checkpoint.reader import Checkpoint

    size, number = sum(file.stat().st_size for file in files), base.numel()
    further, models = round(size / len(langs)), [Checkpoint.open(file) for file in files]
    if not is_adapter(models[0]):
        return SystemSizes(number * len(files), number, size, further)
    own = sum(model.numel() for model in models)
    return SystemSizes(number + own, number + round(own / len(files)), base_bytes + size, further)


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
    below = [FOUND_AGAIN.format(", ".join(sizes.found_again))] if sizes.found_again else []
    return Section("Sizes of the systems", header, rows, above=[NOTE], below=below)


def _row(system: str, sizes: SystemSizes) -> list[str]:
    return [
        system,
        f"{sizes.parameters / 1e6:.3f}",
        f"{sizes.used / 1e6:.3f}",
        f"{100 * sizes.used / sizes.parameters:.1f}",
        f"{sizes.bytes / 1e6:.2f}",
        f"{sizes.bytes_of_a_further_language / 1e6:.2f}",
    ]
