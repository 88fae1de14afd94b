"""The stages of a recipe, cut into units: a data directory, a training, a merge, a test set.

A unit is done if the same marker or file shows it that a run checks when it resumes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.done_marker import DoneMarker
from lors.recipe.expdir import (
    LORA,
    ON_QUANTISED,
    ORDERS,
    SUBNETS,
    ExpDir,
    hypothesis_marker,
    inference_units,
    order_of,
    packed_merges,
    scopes_of,
    sequential_steps,
    steps_of_half,
    utterances_file,
)
from lors.recipe.run_record import RunRecord
from lors.tasks import SPEAKERS_FILE, SPLITS, Pair, pairs_of

STAGES = (
    *("data", "format", "base", "stats", "experts", "baselines"),
    *("tune", "merge", "inference", "score", "pack", "upload"),
)
S3NET_STAGES = (
    *(*STAGES[:6], "importance", "masks", "subnets"),
    *(*STAGES[6:9], "overlap", "score", "pack"),
)
PQM_STAGES = (
    *("data", "format", "speakers", "base", "quantise", "stats", "sat", "adapt"),
    *("inference", "score"),
)
SCRIPTS = {"lors": STAGES, "s3net": S3NET_STAGES, "pqm": PQM_STAGES}
"""Recipe script -> its stages; another script has those of `STAGES`."""
TRAINING = (*STAGES[2:6], "importance", "masks", "subnets", "quantise", "sat", "adapt")
"""The stages that --skip_train leaves out."""
DONE, STARTED, NOT_STARTED = "done", "started", ""


@dataclass
class Unit:
    """A piece of a stage's work.

    Attributes:
        stage: a name of `STAGES`.
        name: its name in print, e.g. ``de_asr``.
        key: its unique name: the path of its result in the experiment directory.
        progress: function that reads ``DONE``, ``STARTED`` or ``NOT_STARTED`` from the disk.
    """

    stage: str
    name: str
    key: str
    progress: Callable[[], str]


def stages_of(run: RunRecord) -> tuple[str, ...]:
    """Return the stages of a run's recipe script."""
    return SCRIPTS.get(run.script, STAGES)


def units_of(run: RunRecord, expdir: str | os.PathLike) -> Iterator[Unit]:
    """Yield all units of a run, in the order of the work."""
    exp = ExpDir(expdir)
    if run.script == "pqm":
        yield from _personal_units(run, exp)
        return
    pairs = pairs_of(run.langs, run.tasks)
    scopes = scopes_of(run.tasks)
    yield from _data_units(run, _recipe_directory(run, exp.root))
    yield from _training_units(run, exp, pairs)
    yield from _subnet_units(run, exp, pairs)
    yield from _merge_units(run, exp, scopes)
    yield from _test_units(run, exp, pairs)
    for name in packed_merges(run.tasks, run.methods) if run.script == "lors" else ():
        packed = exp.root / "packed" / f"{name}.zip"
        progress = _by_age([packed], [exp.merged(*name.split(".")) / "model.pth"])
        yield Unit("pack", packed.name, _key(packed, exp), progress)


def _data_units(run: RunRecord, recipe: Path) -> Iterator[Unit]:
    """Yield the data directories of stages 1 and 2."""
    names = [f"{lang}/{split}" for lang in run.langs for split in SPLITS]
    for name in names:
        yield Unit("data", name, f"data:{name}", _by_data_files(recipe / run.data / name))
    for name in names:
        directory = recipe / run.dump / name
        # Formatting writes no marker at its start: a later run checks its files one by one.
        progress = _by_marker(directory / ".done", started=directory)
        yield Unit("format", name, f"format:{name}", progress)


def _training_units(run: RunRecord, exp: ExpDir, pairs: Sequence[Pair]) -> Iterator[Unit]:
    yield _model("base", "base", exp.base, exp)
    yield _model("stats", "stats", exp.root / "stats", exp)
    for pair in pairs:
        yield _model("experts", str(pair), exp.expert(pair), exp)
    for pair in pairs if LORA in run.systems else ():
        yield _model("experts", f"{LORA}/{pair}", exp.model(LORA, pair, run.tasks), exp)
    if "joint" in run.systems:
        yield _model("baselines", "joint", exp.joint, exp)
    for baseline in [name for name in ORDERS if name in run.systems]:
        for step in sequential_steps(order_of(baseline, pairs)):
            yield _model("baselines", f"{baseline}/{step}", exp.root / baseline / step, exp)


def _subnet_units(run: RunRecord, exp: ExpDir, pairs: Sequence[Pair]) -> Iterator[Unit]:
    """Yield Taylor scores, masks, trainings under masks, their overlap and packed sub-networks."""
    langs = list(dict.fromkeys(pair.lang for pair in pairs))
    subnets = [system for system in run.systems if system.startswith(SUBNETS)]
    for lang in langs if any("_taylor_" in system for system in subnets) else ():
        yield _model("importance", lang, exp.importance(lang), exp)
    for system in subnets:
        directory = exp.masks(system).parent
        yield _model("masks", directory.name, directory, exp)
    for system in subnets:
        if exp.half(system).root.exists():  # with --mask_rounds 2
            for step in steps_of_half(exp, system, pairs):
                name = _key(step, exp).removesuffix("/base")
                yield _model("subnets", name, step, exp)
        yield _model("subnets", system, exp.subnet(system), exp)
    if subnets:
        products = [exp.root / "overlap.json"]
        progress = _by_age(products, [exp.latest_masks(system) for system in subnets])
        yield Unit("overlap", products[0].name, products[0].name, progress)
    for system in subnets:
        weights = exp.subnet(system) / "model.pth"
        for name in (*langs, "all"):
            packed = exp.packed(system, name)
            yield Unit("pack", f"{system}/{name}", _key(packed, exp), _by_age([packed], [weights]))


def _personal_units(run: RunRecord, exp: ExpDir) -> Iterator[Unit]:
    """Yield the units of the adaptation to speakers; those of speakers once these are chosen."""
    recipe = _recipe_directory(run, exp.root)
    for unit in _data_units(run, recipe):
        # A corpus may have training data only.
        split = unit.name.rpartition("/")[2]
        if split == SPLITS[0] or unit.progress() != NOT_STARTED:
            yield unit
    speakers = recipe / run.speakers
    progress = _by_marker(speakers / ".done")
    yield Unit("speakers", "speakers", "speakers", progress)
    for stage, name in (("base", "base"), ("quantise", "quantised"), ("stats", "stats")):
        yield _model(stage, name, exp.root / name, exp)
    yield _model("sat", ON_QUANTISED[0], exp.root / ON_QUANTISED[0], exp)
    chosen = speakers / SPEAKERS_FILE
    codes = chosen.read_text(encoding="utf-8").split() if progress() == DONE else []
    pairs = pairs_of(codes, run.tasks)
    for system in ON_QUANTISED[1:]:
        for pair in pairs:
            yield _model("adapt", f"{system}/{pair}", exp.model(system, pair, ()), exp)
    yield from _test_units(run, exp, pairs)


def _merge_units(run: RunRecord, exp: ExpDir, scopes: Sequence[str]) -> Iterator[Unit]:
    merges = [(method, scope) for scope in scopes for method in run.methods]
    for method, scope in merges:
        yield _model("tune", f"{method}.{scope}", exp.sweep(method, scope).parent, exp)
    for method, scope in merges:
        yield _model("merge", f"{method}.{scope}", exp.merged(method, scope), exp)


def _test_units(run: RunRecord, exp: ExpDir, pairs: Sequence[Pair]) -> Iterator[Unit]:
    """Yield inference and scores of the test sets, and the report."""
    test_sets = inference_units(run.systems, pairs)
    hypotheses = [exp.hypothesis("test", system, pair) for system, pair in test_sets]
    scores = [exp.score("test", system, pair) for system, pair in test_sets]
    names = [f"{system}/{pair}" for system, pair in test_sets]
    for name, hypothesis in zip(names, hypotheses, strict=True):
        progress = _by_marker(hypothesis_marker(hypothesis), hypothesis)
        yield Unit("inference", name, _key(hypothesis, exp), progress)
    for name, score, hypothesis in zip(names, scores, hypotheses, strict=True):
        products = [score, utterances_file(score)]
        yield Unit("score", name, _key(score, exp), _by_age(products, [hypothesis]))
    report = exp.root / "RESULTS.md"
    yield Unit("score", report.name, report.name, _by_age([report], scores))


def _model(stage: str, name: str, directory: Path, exp: ExpDir) -> Unit:
    """Return the unit whose result is a directory with a done marker."""
    return Unit(stage, name, _key(directory, exp), _by_marker(directory / ".done"))


def _key(path: Path, exp: ExpDir) -> str:
    return str(path.relative_to(exp.root))


def _recipe_directory(run: RunRecord, expdir: Path) -> Path:
    """Return the directory of the recipe, even if it was moved with the experiment."""
    typed = Path(run.expdir).parts
    here = expdir.absolute().parts
    if typed and here[-len(typed) :] == typed and not Path(run.expdir).is_absolute():
        return Path(*here[: -len(typed)])
    return Path(run.directory)


# --- the progress of a unit ---------------------------------------------------------------------


def _by_marker(
    marker: Path, product: Path | None = None, started: Path | None = None
) -> Callable[[], str]:
    """Return the function that reads progress from a done marker.

    A unit without the file `product` is not done. A unit with the file `started` has started, even
    without a marker.
    """

    def progress() -> str:
        found = DoneMarker.progress(marker)
        if found == DONE and product is not None and not product.exists():
            return STARTED
        return found or (STARTED if started is not None and started.exists() else NOT_STARTED)

    return progress


def _by_data_files(data_dir: Path) -> Callable[[], str]:
    """Return the function that checks the files that Kaldi requires: no marker is needed."""

    def progress() -> str:
        if all((data_dir / name).exists() for name in ("wav.scp", "utt2spk", "spk2utt")):
            return DONE
        return STARTED if data_dir.exists() else NOT_STARTED

    return progress


def _by_age(products: Sequence[Path], sources: Sequence[Path]) -> Callable[[], str]:
    """Return the function for files that are made again if one of their sources is newer."""

    def progress() -> str:
        try:
            made = min(product.stat().st_mtime_ns for product in products)
        except FileNotFoundError:
            return NOT_STARTED
        is_old = any(s.exists() and s.stat().st_mtime_ns > made for s in sources)
        return NOT_STARTED if is_old else DONE

    return progress
