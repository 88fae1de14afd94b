"""The search for a merge's parameters on the dev set: every method gets the same budget.

Each point of the grid is merged in memory, decoded greedily and scored; the objective is
normalised performance (:mod:`lors.score.normalised`) over the language-task pairs of the merge.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lors.done_marker import DoneMarker
from lors.errors import LorsError
from lors.fileio import file_digest, read_json, remove_tree, scratch_directory, write_json
from lors.log import show_progress
from lors.merge.decompositions import Decompositions
from lors.merge.run import MergeInputs, MergePlan, apply_delta, merged_delta, open_inputs
from lors.models import open_recogniser
from lors.models.family import InferenceOptions
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import Grid
from lors.recipe.inference import TestSet, decode, read_test_set
from lors.score import normalised_performance, score_asr, score_st
from lors.tasks import Pair

log = logging.getLogger(__name__)


def plan_of(expdir: ExpDir, pairs: Sequence[Pair], method: str, params: Mapping) -> MergePlan:
    """The merge of the experts of `pairs`."""
    return MergePlan(
        base=str(expdir.base / "model.pth"),
        experts=tuple(str(expdir.expert(pair) / "model.pth") for pair in pairs),
        method=method,
        params=dict(params),
    )


def score(hypotheses: Mapping[str, str], test_set: TestSet, pair: Pair) -> dict[str, Any]:
    """Scores of one test set: WER and CER, or BLEU and chrF."""
    references = test_set.references[pair.task]
    if pair.task == "asr":
        return score_asr(references, hypotheses, pair.lang)
    return score_st(references, hypotheses, "en")


def scope_of(pairs: Sequence[Pair]) -> str:
    """What a merge of the experts of `pairs` is called: its tasks."""
    return "_".join(sorted({pair.task for pair in pairs}))


class Tuner:
    """Decodes merges of one set of experts on dev.

    Args:
        expdir: holds the base model and the experts.
        pairs: the language-task pairs that are merged, and scored.
        dump: data directories ``<lang>/dev``.
        options: of an inference configuration (the search is greedy whatever they say).
        limit: number of utterances a language; None for all.
        device: torch device.
    """

    def __init__(
        self,
        expdir: ExpDir,
        pairs: Sequence[Pair],
        dump: str | os.PathLike,
        options: InferenceOptions,
        limit: int | None,
        device: str = "cpu",
    ):
        self.expdir, self.pairs = expdir, tuple(pairs)
        self.options = options.greedy()
        self.dev = {pair.lang: _in_memory(Path(dump) / pair.lang / "dev", limit) for pair in pairs}
        self.inputs: MergeInputs = open_inputs(plan_of(expdir, pairs, "average", {}))
        self.expert = {}
        for pair in self.pairs:
            self.model = open_recogniser(expdir.expert(pair), device)
            self.expert[str(pair)] = self._score_pair(pair)
        self.model = open_recogniser(expdir.base, device)
        self.base = self._score()

    def _score_pair(self, pair: Pair) -> dict[str, Any]:
        test_set = self.dev[pair.lang]
        return score(decode(self.model, test_set, pair, self.options), test_set, pair)

    def _score(self) -> dict[str, dict[str, Any]]:
        return {str(pair): self._score_pair(pair) for pair in self.pairs}

    def run(self, method: str, points: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the result of each point: its params, objective and scores."""
        ranks = [point["rank"] for point in points if isinstance(point.get("rank"), int)]
        scope = scope_of(self.pairs)
        kept = self.expdir.sweep(method, scope).with_name(".decompositions")
        with scratch_directory(kept):
            yield from self._run(method, points, Decompositions(kept, max(ranks, default=0)))

    def _run(
        self, method: str, points: Sequence[dict[str, Any]], cache: Decompositions
    ) -> Iterator[dict[str, Any]]:
        plan: MergePlan | None = None
        delta = state = None
        for point in points:
            plan_before, plan = plan, plan_of(self.expdir, self.pairs, method, point)
            if plan_before is None or _shape(plan_before) != _shape(plan):
                delta = merged_delta(plan, self.inputs, cache=cache, reuse=delta)
            state = apply_delta(self.inputs.base, delta, plan.scaling_coef, out=state)
            self.model.load_state(state)
            scores = self._score()
            objective = normalised_performance(scores, self.base, self.expert)
            params = dataclasses.asdict(plan)["params"]
            yield {"params": params, "objective": objective, "scores": scores}


def _in_memory(directory: Path, limit: int | None) -> TestSet:
    """A test set that is decoded many times."""
    test_set = read_test_set(directory, limit)
    return dataclasses.replace(test_set, waveforms=tuple(test_set.waveforms))


def _digests(directory: Path) -> dict[str, str]:
    """What the scores depend on: which audio it is, and the references."""
    files = [directory / name for name in ("utt2dur", "text", "text.en")]
    return {path.name: file_digest(path) for path in files if path.exists()}


def _shape(plan: MergePlan) -> dict[str, Any]:
    """The parameters that the merged delta depends on."""
    return {name: value for name, value in plan.params.items() if name != "scaling_coef"}


def tune(
    expdir: ExpDir,
    pairs: Sequence[Pair],
    dump: str | os.PathLike,
    grid: Grid,
    options: InferenceOptions,
    device: str = "cpu",
) -> None:
    """Write ``sweep.json`` of every method of `grid` for the merge of `pairs`.

    Finished methods are left alone; an interrupted one goes on with the point it had reached.

    Raises:
        LorsError: a model or data is missing, or a sweep was made from other settings.
        UsageError: an unknown method or parameter in `grid`.
    """
    scope = scope_of(pairs)
    for method, points in grid.points.items():
        for point in points:
            plan_of(expdir, pairs, method, point)  # a wrong parameter is found before any work
    models = [expdir.base, *(expdir.expert(pair) for pair in pairs)]
    missing = [d / "model.pth" for d in models if not (d / "model.pth").exists()]
    if missing:
        names = ", ".join(map(str, missing))
        raise LorsError("models to merge are missing", got=names, hint="run the earlier stages")
    dev = {pair.lang: Path(dump) / pair.lang / "dev" for pair in pairs}
    missing = [str(directory) for directory in dev.values() if not directory.is_dir()]
    if missing:
        names = ", ".join(missing)
        raise LorsError("data directories not found", got=names, hint="run stage 2 (format)")
    common = {
        "models": {str(d.relative_to(expdir.root)): file_digest(d / "model.pth") for d in models},
        "data": {lang: _digests(directory) for lang, directory in dev.items()},
        "limit": grid.limit,
        "options": options.greedy().settings(),
    }
    todo = {}
    for method, points in grid.points.items():
        path = expdir.sweep(method, scope)
        marker = DoneMarker(path.with_name(".done"), {**common, "points": points})
        if marker.is_done():
            _clear(path)  # after an interruption
        else:
            todo[method] = (path, marker)
    if not todo:
        return
    tuner = Tuner(expdir, pairs, dump, options, grid.limit, device)
    total = sum(len(grid.points[method]) for method in todo)
    with tqdm(total=total, unit="merge", desc=scope, disable=not show_progress()) as progress:
        for method, (path, marker) in todo.items():
            with marker.work():
                partial = path.with_name("partial.json")
                done = read_json(partial) if partial.exists() else []
                progress.update(len(done))
                for result in tuner.run(method, grid.points[method][len(done) :]):
                    done.append(result)
                    write_json(partial, done)
                    progress.update()
                best = max(range(len(done)), key=lambda i: done[i]["objective"])
                write_json(path, {"method": method, "scope": scope, "grid": done, "best": best})
            _clear(path)
            log.info("%s: best of %d: %s", path, len(done), done[best]["params"])


def _clear(sweep: Path) -> None:
    """Remove what an unfinished sweep keeps beside the file that it is to become."""
    sweep.with_name("partial.json").unlink(missing_ok=True)
    remove_tree(sweep.with_name(".decompositions"))
