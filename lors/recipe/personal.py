"""Adapters of speakers: the same ones on the model in full precision, and sizes of all parts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.checkpoint.places import RECIPE_MODEL
from lors.errors import LorsError
from lors.fileio import replace_link, write_json
from lors.recipe.expdir import ON_FULL, ON_QUANTISED, ExpDir
from lors.recipe.measured import Count, read_measured
from lors.recipe.report import Section
from lors.tasks import Pair

SIZES = "sizes.json"


@dataclass(frozen=True)
class FullSizes:
    """Sizes of the base model in full precision: its file and its parameters."""

    bytes: Count
    parameters: Count


@dataclass(frozen=True)
class QuantisedSizes:
    """Sizes of the quantised model.

    Attributes:
        bytes: size of its file.
        parameters: number of those in 4 bits.
        bytes_in_4_bits: size of these.
    """

    bytes: Count
    parameters: Count
    bytes_in_4_bits: Count


@dataclass(frozen=True)
class AdapterSizes:
    """Sizes of an adapter.

    Attributes:
        bytes: size of the largest file of an adapter.
        parameters: number of its parameters.
        speakers: number of speakers with an adapter.
    """

    bytes: Count
    parameters: Count
    speakers: Count


@dataclass(frozen=True)
class PersonalSizes:
    """The content of ``sizes.json``."""

    base: FullSizes
    quantised: QuantisedSizes
    adapter: AdapterSizes


def share_adapters(expdir: ExpDir, pairs: Sequence[Pair]) -> None:
    """Make model directories of the adapters on the base model in full precision.

    Each holds links to the files of the adapter on the quantised model, and its own ``base.json``.

    Args:
        expdir: the experiment.
        pairs: the pairs of the test speakers.

    Raises:
        LorsError: adapters are missing (all are listed), or were trained on another base model.
    """
    from lors.checkpoint.adapter import open_adapter  # torch is slow to import
    from lors.checkpoint.adapter_base import record_base
    from lors.checkpoint.expert import open_model
    from lors.checkpoint.reader import Checkpoint

    shared = {
        expdir.model(full, pair, ()): expdir.model(quantised, pair, ())
        for full, quantised in ON_FULL.items()
        for pair in pairs
    }
    files = [adapter / RECIPE_MODEL for adapter in shared.values()]
    if missing := [file for file in files if not file.exists()]:
        raise LorsError("adapters are missing", got=missing, hint="run the stages that train them")
    base = open_model(expdir.base / RECIPE_MODEL)
    for out, adapter in shared.items():
        open_adapter(base, Checkpoint.open(adapter / RECIPE_MODEL))
        out.mkdir(parents=True, exist_ok=True)
        record_base(base, out)
        for name in (RECIPE_MODEL, "config.yaml"):
            replace_link(out / name, os.path.relpath(adapter / name, out))


def write_sizes(expdir: ExpDir, pairs: Sequence[Pair]) -> None:
    """Write ``sizes.json``: bytes on disk and numbers of parameters of models and adapters."""
    from lors.checkpoint.expert import open_model
    from lors.checkpoint.quantised import open_quantised
    from lors.checkpoint.reader import Checkpoint

    base = open_model(expdir.base / RECIPE_MODEL)
    directory = expdir.model("quantised", pairs[0], ())
    quantised = open_quantised(directory)
    names = quantised.quantised_names()
    adapters = [expdir.model(ON_QUANTISED[-1], pair, ()) / RECIPE_MODEL for pair in pairs]
    factors = Checkpoint.open(adapters[0])
    in_4_bits = sum(quantised.nf4(name).nbytes for name in names)
    sizes = PersonalSizes(
        FullSizes(_bytes(expdir.base / RECIPE_MODEL), base.numel()),
        QuantisedSizes(_bytes(quantised.path), base.numel(names), in_4_bits),
        AdapterSizes(max(map(_bytes, adapters)), factors.numel(), len(pairs)),
    )
    write_json(expdir.root / SIZES, dataclasses.asdict(sizes))


def _bytes(path: Path) -> int:
    return path.stat().st_size  # of the file that a link leads to


def size_files(expdirs: Sequence[str]) -> list[Path]:
    """Return the ``sizes.json`` of the first experiment, if it has one."""
    path = Path(expdirs[0]) / SIZES
    return [path] if path.exists() else []


def size_sections(expdirs: Sequence[str]) -> list[Section]:
    """Return the section on the sizes of models and adapters, from the first experiment.

    Raises:
        LorsError: the file is malformed.
    """
    return [_section(file) for file in size_files(expdirs)]


def _section(file: Path) -> Section:
    sizes = read_measured(PersonalSizes, file, "inference")
    base, quantised, adapter = sizes.base, sizes.quantised, sizes.adapter

    def row(name: str, size: int, parameters: int, before: int) -> list[str]:
        smaller = f"{before / size:.2f}" if before else "-"
        share = f"{100 * parameters / base.parameters:.2f}"
        return [name, f"{size / 1e6:.3f}", smaller, str(parameters), share]

    in_4_bits = quantised.parameters
    rows = [
        row("full precision", base.bytes, base.parameters, base.bytes),
        row("quantised", quantised.bytes, base.parameters, base.bytes),
        row("its weights in 4 bits", quantised.bytes_in_4_bits, in_4_bits, 4 * in_4_bits),
        row("adapter of a speaker", adapter.bytes, adapter.parameters, 0),
    ]
    header = ["part", "MB", "times smaller", "parameters", "% of parameters"]
    note = "Bytes on disk, and against float32."
    return Section("Sizes", header, rows, above=[note])
