"""``overlap.json``: overlap of masks of two languages, and the loss of merging their experts."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.checkpoint.places import RECIPE_MODEL, masks_in
from lors.fileio import write_json
from lors.recipe.expdir import SUBNETS, ExpDir
from lors.recipe.made_from import MadeFrom
from lors.recipe.measured import CountOrZero, Fraction, read_measured
from lors.recipe.merging_loss import MergingLoss, inputs_of_losses, losses_of_two
from lors.recipe.report import Section, two_digits
from lors.recipe.subnetworks import OF_MASKS
from lors.subnet.criteria import BY_TAYLOR, ONE_FOR_ALL

if TYPE_CHECKING:
    from lors.models.family import InferenceOptions

NOTE = (
    "Overlap: entries inside the masks of both languages divided by entries inside at least one "
    "(Jaccard); masks drawn at random would have the value in the last row. Loss of merging: 1 - "
    "normalised performance, on dev, of the average of the experts of the two languages; 0 is as "
    "good as the experts, 1 as the base model; a dash: not measured, or undefined, because these "
    "experts are not better than the base model."
)
NEARLY_ONE = 0.85
"""Way from the overlap of random masks to 1 above which masks of languages are hardly different."""
COMMON = (
    "{}: every two masks have an overlap of {:.3f} or more, nearly one common mask. A training "
    "with one mask for all languages (--criteria {}) shows whether their differences matter."
)
PRETRAINED = (
    "The masks are those of {}. The joint model and the systems under masks begin with its models, "
    "after that further pre-training; experts and merges begin with the base model."
)


@dataclass(frozen=True)
class MaskFindings:
    """Measurements of the masks of a system (:func:`lors.subnet.overlap.mask_findings`)."""

    languages: tuple[str, ...]
    matrices: CountOrZero
    entries: CountOrZero
    settings: dict[str, Any]
    density: dict[str, Fraction]
    jaccard: tuple[tuple[Fraction | None, ...], ...]
    shared: dict[str, Fraction]

    def overlap(self, one: str, other: str) -> float | None:
        """Return the overlap of the masks of two languages; None if one has none."""
        if one not in self.languages or other not in self.languages:
            return None
        return self.jaccard[self.languages.index(one)][self.languages.index(other)]

    @property
    def least_overlap(self) -> float | None:
        """Return the smallest overlap of two languages; None without any."""
        pairs = itertools.combinations(self.languages, 2)
        found = [overlap for pair in pairs if (overlap := self.overlap(*pair)) is not None]
        return min(found, default=None)

    @property
    def nearly_one(self) -> bool:
        """Whether the masks of every two languages are hardly different."""
        least, chance = self.least_overlap, self.chance
        return least is not None and least - chance > NEARLY_ONE * (1 - chance)

    @property
    def chance(self) -> float:
        """Expected overlap of two random masks of the mean density d: d / (2 - d)."""
        density = sum(self.density.values()) / len(self.density)
        return density / (2 - density)


@dataclass(frozen=True)
class Overlap:
    """The content of ``overlap.json``.

    Attributes:
        masks: system -> measurements of its masks.
        merging: the loss of every two languages and each task.
    """

    masks: dict[str, MaskFindings]
    merging: tuple[MergingLoss, ...]


def read_overlap(path: Path) -> Overlap:
    """Read an ``overlap.json``.

    Raises:
        LorsError: the file is missing or malformed; all problems are listed.
    """
    return read_measured(Overlap, path, "overlap", _problems)


def _problems(overlap: Overlap) -> list[str]:
    problems = []
    for system, of in overlap.masks.items():
        size = len(of.languages)
        if len(of.jaccard) != size or any(len(row) != size for row in of.jaccard):
            problems.append(f"masks.{system}.jaccard: not {size} x {size}, as there are languages")
        if not of.density:
            problems.append(f"masks.{system}.density: empty")
    for index, loss in enumerate(overlap.merging):
        if len(loss.langs) != 2:
            problems.append(f"merging[{index}].langs: {len(loss.langs)} languages, not 2")
    return problems


def systems_under_masks(expdir: ExpDir, given: Sequence[str], langs: Sequence[str]) -> list[str]:
    """Return the given systems, and those of earlier runs that are trained for the languages.

    A run with other rates measures all systems of its experiment, as the results have all.

    Args:
        expdir: the experiment.
        given: systems trained under masks.
        langs: languages that the masks of another system must have.

    Raises:
        LorsError: the masks of such a system are damaged.
    """
    from lors.checkpoint.masks import Masks  # torch is slow to import

    trained = [path.parent for path in expdir.root.glob(f"{SUBNETS}*/{RECIPE_MODEL}")]
    masked = ((path.name, masks) for path in trained if (masks := masks_in(path)))
    others = [name for name, masks in masked if {*langs} <= {*Masks(masks).languages}]
    return sorted({*given, *others})


def write_overlap(
    expdir: ExpDir,
    systems: Sequence[str],
    langs: Sequence[str],
    tasks: Sequence[str],
    dump: str | os.PathLike,
    options: InferenceOptions,
    limit: int | None,
    device: str = "cpu",
) -> None:
    """Measure masks, and merges of the experts of every two languages; a current file is kept.

    Args:
        expdir: the experiment, with masks and experts.
        systems: the systems trained under these masks.
        langs, tasks: languages and tasks.
        dump: data directories ``<lang>/dev``.
        options: settings of inference; the search is greedy.
        limit: number of dev utterances of each language; None for all.
        device: torch device.

    Raises:
        LorsError: a model or a file of masks is missing or damaged.
    """
    out = expdir.root / "overlap.json"
    files = [expdir.latest_masks(system) for system in systems]
    settings = inputs_of_losses(expdir, langs, tasks, dump, options, limit)
    record = MadeFrom(out.with_name(".overlap.json"), files, [out], settings)
    if record.is_current():
        return
    from lors.checkpoint.masks import Masks  # torch is slow to import
    from lors.subnet.overlap import mask_findings

    found = {s: mask_findings(Masks(f)) for s, f in zip(systems, files, strict=True)}
    merging = [
        dataclasses.asdict(loss)
        for task in tasks
        for loss in losses_of_two(expdir, langs, task, dump, options, limit, device)
    ]
    write_json(out, {"masks": found, "merging": merging})
    record.record()


def overlap_sections(expdirs: Sequence[str | os.PathLike]) -> list[Section]:
    """Return a section for each experiment that has an ``overlap.json``.

    Raises:
        LorsError: such a file is malformed.
    """
    return [_section(file) for file in overlap_files(expdirs)]


def overlap_files(expdirs: Sequence[str | os.PathLike]) -> list[Path]:
    """Return the ``overlap.json`` of the experiments that have one."""
    files = [Path(expdir) / "overlap.json" for expdir in expdirs]
    return [file for file in files if file.exists()]


def _section(file: Path) -> Section:
    overlap = read_overlap(file)
    masks, merging = overlap.masks, overlap.merging
    tasks = list(dict.fromkeys(loss.task for loss in merging))
    # The masks of a pre-training may have the languages in another order.
    losses = {(frozenset(loss.langs), loss.task): loss.loss for loss in merging}
    langs = list(dict.fromkeys(lang for of in masks.values() for lang in of.languages))
    rows = []
    for one, other in itertools.combinations(langs, 2):
        overlaps = [of.overlap(one, other) for of in masks.values()]
        found = [losses.get((frozenset((one, other)), task)) for task in tasks]
        rows.append([f"{one} {other}", *map(two_digits, [*overlaps, *found])])
    chance = [of.chance for of in masks.values()]
    rows.append(["at random", *map(two_digits, chance), *("-" for _ in tasks)])
    header = ["languages", *masks, *(f"loss of merging, {task}" for task in tasks)]
    above = [NOTE, *_after_pretraining(file.parent)]
    below = [
        COMMON.format(system, of.least_overlap, _control(of.settings.get("criterion")))
        for system, of in masks.items()
        if of.nearly_one and of.settings.get("criterion") not in ONE_FOR_ALL
    ]
    return Section(f"Overlap of masks in {file.parent}", header, rows, above=above, below=below)


def _control(criterion: Any) -> str:
    return "common_taylor" if criterion in BY_TAYLOR else "common"


def _after_pretraining(expdir: Path) -> list[str]:
    """Return a note if the masks of an experiment are those of a pre-training."""
    masks = expdir / OF_MASKS
    if not masks.is_symlink():
        return []
    return [PRETRAINED.format(os.path.normpath(expdir / masks.readlink().parent))]
