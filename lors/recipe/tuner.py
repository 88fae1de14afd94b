"""Trials of merge parameters: merge in memory, run inference on dev, score."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from lors.checkpoint.places import model_in
from lors.checkpoint.reader import bytes_of
from lors.merge import Decompositions, MergePlan, apply_delta, merged_delta, open_inputs
from lors.models import family_of, open_recogniser
from lors.models.family import InferenceOptions, Recogniser
from lors.recipe.ends import Ends, in_any_order
from lors.recipe.eval_set import EvalSet, hypotheses_of, read_eval_set
from lors.recipe.expdir import ExpDir
from lors.recipe.grid import PLAN_OPTIONS
from lors.recipe.halving import clip_order, first_clips
from lors.recipe.points import Hypotheses, Point, trial_of
from lors.recipe.subnetworks import masks_called
from lors.recipe.sweeps import SCALING, Trial
from lors.score import Score, score_pair, without_words
from lors.tasks import Pair


def plan_of(
    expdir: ExpDir, pairs: Sequence[Pair], method: str, setting: Mapping[str, Any]
) -> MergePlan:
    """Return the plan that merges the experts of `pairs`.

    Args:
        expdir: the experiment.
        pairs: the experts to merge.
        method: the merge method.
        setting: its parameters, and options of the plan (`PLAN_OPTIONS`).

    Raises:
        UsageError: an unknown method or parameter, or a value that it cannot have.
    """
    return MergePlan(
        base=str(expdir.base / "model.pth"),
        experts=tuple(str(model_in(expdir.expert(pair))) for pair in pairs),
        method=method,
        params={name: value for name, value in setting.items() if name not in PLAN_OPTIONS},
        policy=_policy_of(expdir.base),
        **_plan_options(setting) | _masks_of(expdir, pairs, setting),
    )


def _plan_options(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {name: setting[name] for name in PLAN_OPTIONS if name in setting}


def _masks_of(expdir: ExpDir, pairs: Sequence[Pair], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the plan for the masks that a setting names, e.g. ``taylor_30``."""
    if "masks" not in setting:
        return {}
    file = masks_called(expdir, setting["masks"])
    return {"masks": str(file), "langs": tuple(pair.lang for pair in pairs)}


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

    Attributes:
        base: dev scores of the base model.
        expert: dev scores of the experts, each on its own pair.
        utterances: pair -> ids of its dev utterances, in the order in which rounds take them.
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
        self.utterances = {
            pair: clip_order(of.ids, without_words(pair, of.references[pair.task]))
            for pair in pairs
            for of in [self.dev[pair.lang]]
        }
        self.inputs = open_inputs(plan_of(expdir, pairs, "average", {}))
        self._ends = Ends(expdir, Path(dump), self.options)
        self.expert = self._scores_of_experts(device)
        self.model = open_recogniser(expdir.base, device)
        self.base = self._scores_of_base()
        self._plan: MergePlan | None = None
        self._delta: dict[str, Tensor] | None = None
        self._state: dict[str, Tensor] | None = None
        self._known: dict[str, Point] = {}

    def _scores_of_experts(self, device: str) -> dict[Pair, Score]:
        """Return the dev score of each expert; those that are not kept are decoded."""

        def decode(directory: Path, pair: Pair) -> dict[str, str]:
            return self._hypotheses(open_recogniser(directory, device), pair)

        found = {}
        for pair in in_any_order(self.pairs):
            directory, dev = self.expdir.expert(pair), self.dev[pair.lang]
            texts = self._ends.hypotheses(
                directory, pair, dev, functools.partial(decode, directory, pair)
            )
            found[pair] = self._scored(pair, texts)
        return {pair: found[pair] for pair in self.pairs}

    def _scores_of_base(self) -> dict[Pair, Score]:
        """Return the dev scores of the base model; those that are not kept are decoded."""
        found = {}
        for pair in in_any_order(self.pairs):
            decode = functools.partial(self._hypotheses, self.model, pair)
            texts = self._ends.hypotheses(self.expdir.base, pair, self.dev[pair.lang], decode)
            found[pair] = self._scored(pair, texts)
        return {pair: found[pair] for pair in self.pairs}

    def score(self, model: Recogniser, pair: Pair) -> Score:
        """Return the score of a model on the dev utterances of a pair."""
        return self._scored(pair, self._hypotheses(model, pair))

    def _hypotheses(self, model: Recogniser, pair: Pair) -> dict[str, str]:
        return hypotheses_of(model, self.dev[pair.lang], pair, self.options)

    def _scored(self, pair: Pair, hypotheses: Mapping[str, str]) -> Score:
        return score_pair(pair, self.dev[pair.lang].references[pair.task], hypotheses)

    def clips(self, share: float) -> dict[Pair, Sequence[str]]:
        """Return pair -> ids of this share of its dev utterances."""
        return first_clips(self.utterances, share)

    def remember(self, points: Iterable[Point]) -> None:
        """Use the hypotheses of these points for models with the same values."""
        for point in points:
            self._add(self._known_point(point.model), point.hypotheses)

    def merge(
        self, method: str, setting: Mapping[str, Any], cache: Decompositions | None = None
    ) -> Point:
        """Merge a setting of a method.

        Returns:
            The point of all models with the same values; :meth:`decode` adds hypotheses to it.
        """
        before, plan = self._plan, plan_of(self.expdir, self.pairs, method, setting)
        delta = self._delta
        if delta is None or before is None or _delta_of(before) != _delta_of(plan):
            kept = {}
            if delta is not None and before is not None and _whole_of(before) == _whole_of(plan):
                kept = {name: delta[name] for name in self.inputs.names("whole")}
            # A delta is as large as the model: the old one goes before the new one is made.
            self._delta = delta = None
            threads = torch.get_num_threads()
            delta = merged_delta(plan, self.inputs, threads, cache=cache, reuse=kept)
        self._plan, self._delta = plan, delta
        self._state = apply_delta(self.inputs.base, delta, plan.scaling_coef, out=self._state)
        return self._known_point(_digest(self._state[name] for name in delta))

    def decode(self, point: Point, wanted: Mapping[Pair, Collection[str]]) -> int:
        """Run inference with the latest merge on what `point` lacks of the wanted utterances.

        Returns:
            The number of utterances that were decoded.
        """
        missing = point.missing(wanted)
        if missing:
            if self._state is None:
                raise ValueError("nothing is merged yet")
            self.model.load_state(self._state)
        for pair, ids in missing.items():
            part = self.dev[pair.lang].subset(ids)
            found = hypotheses_of(self.model, part, pair, self.options)
            self._add(point, {pair: found})
        return sum(map(len, missing.values()))

    def trial(
        self,
        setting: Mapping[str, Any],
        hypotheses: Hypotheses,
        wanted: Mapping[Pair, Collection[str]],
    ) -> Trial:
        """Score the hypotheses of a setting on the wanted utterances."""
        references = {pair: self.dev[pair.lang].references[pair.task] for pair in wanted}
        return trial_of(setting, hypotheses, wanted, references, self.base, self.expert)

    def _known_point(self, model: str) -> Point:
        return self._known.setdefault(model, Point(model))

    @staticmethod
    def _add(point: Point, hypotheses: Hypotheses) -> None:
        for pair, of in hypotheses.items():
            point.hypotheses.setdefault(pair, {}).update(of)


def full_setting(plan: MergePlan, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting with the defaults of all parameters that it leaves out, as plain values."""
    return {**dataclasses.asdict(plan)["params"], **_plan_options(setting)}


def _in_memory(directory: Path, limit: int | None) -> EvalSet:
    """Read an evaluation set that is used many times, with all its audio."""
    eval_set = read_eval_set(directory, limit)
    return dataclasses.replace(eval_set, waveforms=tuple(eval_set.waveforms))


def _delta_of(plan: MergePlan) -> MergePlan:
    """Return all that the merged delta depends on."""
    return dataclasses.replace(plan, params={**plan.params, SCALING: 1.0})


def _whole_of(plan: MergePlan) -> tuple[Any, ...]:
    """Return what the deltas of a method for matrices depend on outside the pruned matrices."""
    return plan.method, plan.weights, plan.lines, plan.masks


def _digest(tensors: Iterable[Tensor]) -> str:
    """Return a hash of the values of tensors."""
    found = xxhash.xxh3_128()
    for tensor in tensors:
        found.update(bytes_of(tensor))
    return found.hexdigest()
