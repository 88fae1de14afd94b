"""``overlap.json``: overlap of masks of two languages, and the loss of merging their experts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.fileio import read_json_object, write_json
from lors.recipe.expdir import ExpDir, check_models, model_digest
from lors.recipe.made_from import MadeFrom
from lors.recipe.report import Section
from lors.score import normalised_performance
from lors.score.normalised import UndefinedPerformanceError
from lors.tasks import pairs_of

if TYPE_CHECKING:
    from lors.models.family import InferenceOptions

NOTE = (
    "Overlap: entries inside the masks of both languages divided by entries inside at least one "
    "(Jaccard); masks drawn at random would have the value in the last row. Loss of merging: 1 - "
    "normalised performance, on dev, of the average of the experts of the two languages; 0 is as "
    "good as the experts, 1 as the base model; a dash: not measured, or undefined, because these "
    "experts are not better than the base model."
)


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
    models = [expdir.base, *(expdir.expert(pair) for pair in pairs_of(langs, tasks))]
    check_models(models)
    settings = {"options": options.greedy().settings(), "limit": limit, "langs": [*langs]}
    settings["models"] = {str(d): model_digest(d) for d in models}
    record = MadeFrom(out.with_name(".overlap.json"), files, [out], {**settings, "tasks": [*tasks]})
    if record.is_current():
        return
    from lors.checkpoint.masks import Masks  # torch is slow to import
    from lors.subnet.overlap import mask_findings

    found = {s: mask_findings(Masks(f)) for s, f in zip(systems, files, strict=True)}
    merging = [
        loss
        for task in tasks
        for loss in _losses(expdir, langs, task, dump, options, limit, device)
    ]
    write_json(out, {"masks": found, "merging": merging})
    record.record()


def _losses(
    expdir: ExpDir,
    langs: Sequence[str],
    task: str,
    dump: str | os.PathLike,
    options: InferenceOptions,
    limit: int | None,
    device: str,
) -> list[dict[str, Any]]:
    """Return what the average of the experts of every two languages loses on dev."""
    from lors.merge.run import iter_merged
    from lors.recipe.tuner import Tuner, plan_of

    pairs, losses = pairs_of(langs, [task]), []
    tuner = Tuner(expdir, pairs, dump, options, limit, device)
    for two in itertools.combinations(pairs, 2):
        tuner.model.load_state(dict(iter_merged(plan_of(expdir, two, "average", {}))))
        merged = {pair: tuner.score(tuner.model, pair) for pair in two}
        try:
            kept = normalised_performance(merged, tuner.base, tuner.expert)
        except UndefinedPerformanceError:
            kept = None
        loss = None if kept is None else 1 - kept
        losses.append({"langs": [pair.lang for pair in two], "task": task, "loss": loss})
    return losses


def overlap_sections(expdirs: Sequence[str | os.PathLike]) -> list[Section]:
    """Return a section for each experiment that has an ``overlap.json``."""
    return [_section(file) for file in overlap_files(expdirs)]


def overlap_files(expdirs: Sequence[str | os.PathLike]) -> list[Path]:
    """Return the ``overlap.json`` of the experiments that have one."""
    files = [Path(expdir) / "overlap.json" for expdir in expdirs]
    return [file for file in files if file.exists()]


def _section(file: Path) -> Section:
    content = read_json_object(file)
    masks, merging = content["masks"], content["merging"]
    tasks = list(dict.fromkeys(loss["task"] for loss in merging))
    # The masks of a pre-training may have the languages in another order.
    losses = {(frozenset(loss["langs"]), loss["task"]): loss["loss"] for loss in merging}
    langs = list(dict.fromkeys(lang for of in masks.values() for lang in of["languages"]))
    rows = []
    for one, other in itertools.combinations(langs, 2):
        overlaps = [_overlap(of, one, other) for of in masks.values()]
        found = [losses.get((frozenset((one, other)), task)) for task in tasks]
        rows.append([f"{one} {other}", *map(_text, [*overlaps, *found])])
    chance = [_chance(of) for of in masks.values()]
    rows.append(["at random", *map(_text, chance), *("-" for _ in tasks)])
    header = ["languages", *masks, *(f"loss of merging, {task}" for task in tasks)]
    return Section(f"Overlap of masks in {file.parent}", header, rows, above=[NOTE])


def _overlap(of: Mapping[str, Any], one: str, other: str) -> float | None:
    langs = of["languages"]
    if one not in langs or other not in langs:
        return None
    return of["jaccard"][langs.index(one)][langs.index(other)]


def _chance(of: Mapping[str, Any]) -> float:
    """Return the expected overlap of two random masks of the mean density d: d / (2 - d)."""
    density = sum(of["density"].values()) / len(of["density"])
    return density / (2 - density)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
