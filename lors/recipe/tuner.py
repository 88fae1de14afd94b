"""Trials of merge parameters: merge in memory, run inference on dev, score."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lors.fileio import scratch_directory
from lors.merge import Decompositions, MergePlan, apply_delta, merged_delta, open_inputs
from lors.models import family_of, open_recogniser
from lors.models.family import InferenceOptions, Recogniser
from lors.recipe.eval_set import EvalSet, hypotheses_of, read_eval_set
from lors.recipe.expdir import ExpDir, scope_of
from lors.recipe.sweeps import Trial
from lors.score import Score, normalised_performance, score_pair
from lors.tasks import Pair


def plan_of(
    expdir: ExpDir, pairs: Sequence[Pair], method: str, params: Mapping[str, Any]
) -> MergePlan:
    """Return the plan that merges the experts of `pairs`.

    Raises:
        UsageError: an unknown method or parameter.
    """
    return MergePlan(
        base=str(expdir.base / "model.pth"),
        experts=tuple(str(expdir.expert(pair) / "model.pth") for pair in pairs),
        method=method,
        params=dict(params),
        policy=_policy_of(expdir.base),
    )


@functools.cache
def _policy_of(base: Path) -> str:
    """Return the policy of a base model's family."""
    return family_of(base).policy


class Tuner:
    """Trials of merges of one set of experts on dev.

    Args:
        expdir: experiment with the base model and the experts.
        pairs: language-task pairs that are merged and scored.
        dump: data directories ``<lang>/dev``.
        options: settings of inference; the beam size is ignored, because the search is greedy.
        limit: number of utterances of each language; None for all.
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
        self.inputs = open_inputs(plan_of(expdir, pairs, "average", {}))
        self.expert = {
            pair: self._score_pair(open_recogniser(expdir.expert(pair), device), pair)
            for pair in self.pairs
        }
        self.model = open_recogniser(expdir.base, device)
        self.base = self._score()

    def _score_pair(self, model: Recogniser, pair: Pair) -> Score:
        eval_set = self.dev[pair.lang]
        hypotheses = hypotheses_of(model, eval_set, pair, self.options)
        return score_pair(pair, eval_set.references[pair.task], hypotheses)

    def _score(self) -> dict[Pair, Score]:
        return {pair: self._score_pair(self.model, pair) for pair in self.pairs}

    def run(self, method: str, points: Sequence[Mapping[str, Any]]) -> Iterator[Trial]:
        """Yield the trial of each point of a grid."""
        ranks = [point["rank"] for point in points if isinstance(point.get("rank"), int)]
        scope = scope_of(pair.task for pair in self.pairs)
        kept = self.expdir.sweep(method, scope).with_name(".decompositions")
        with scratch_directory(kept):
            yield from self._run(method, points, Decompositions(kept, max(ranks, default=0)))

    def _run(
        self, method: str, points: Sequence[Mapping[str, Any]], cache: Decompositions
    ) -> Iterator[Trial]:
        plan: MergePlan | None = None
        delta = state = None
        for point in points:
            plan_before, plan = plan, plan_of(self.expdir, self.pairs, method, point)
            if plan_before is None or _without_scaling(plan_before) != _without_scaling(plan):
                delta = merged_delta(plan, self.inputs, cache=cache, reuse=delta)
            state = apply_delta(self.inputs.base, delta, plan.scaling_coef, out=state)
            self.model.load_state(state)
            scores = self._score()
            objective = normalised_performance(scores, self.base, self.expert)
            yield Trial(dataclasses.asdict(plan)["params"], objective, scores)


def _in_memory(directory: Path, limit: int | None) -> EvalSet:
    """Read an evaluation set that is used many times, with all its audio."""
    eval_set = read_eval_set(directory, limit)
    return dataclasses.replace(eval_set, waveforms=tuple(eval_set.waveforms))


def _without_scaling(plan: MergePlan) -> dict[str, Any]:
    """Return the parameters that the merged delta depends on."""
    return {name: value for name, value in plan.params.items() if name != "scaling_coef"}
