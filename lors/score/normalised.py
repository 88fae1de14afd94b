"""Normalised performance: the share of the experts' gain over the base model that a model keeps.

The LoRS-Merging paper reports a measure of this name, but its definition is not known to us. The
definition here is LoRS's own; say so wherever a value is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from lors.errors import LorsError
from lors.score.result import Score
from lors.tasks import Pair


def normalised_performance(
    merged: Mapping[Pair, Score], base: Mapping[Pair, Score], expert: Mapping[Pair, Score]
) -> float:
    """Compute the mean over language-task pairs of (merged - base) / (expert - base).

    0 is the base model, 1 is as good as the pair's own expert, and a negative value is worse than
    the base model. The same holds for error rates: both differences change their sign. If the
    expert of a pair is worse than the base model, the share grows as the merged model gets worse
    (see :func:`unhelpful_experts`).

    Args:
        merged: pair -> its scores; the mean is over these pairs.
        base: the same for the base model, at least for the pairs of `merged`.
        expert: the same, each pair scored with its own expert.

    Returns:
        The mean; 1.0 is 100 %.

    Raises:
        LorsError: no pairs, scores missing, or expert and base equal (all such pairs are listed).
    """
    if not merged:
        raise LorsError("normalised performance of no language-task pair is undefined")
    problems, shares = [], []
    for pair, score in merged.items():
        absent = [
            f"{pair}: no score of the {model} model"
            for model, scores in (("base", base), ("expert", expert))
            if pair not in scores
        ]
        problems += absent
        if absent:
            continue
        metric = pair.speech_task.metric
        start, goal = base[pair].value(metric), expert[pair].value(metric)
        if start == goal:
            problems.append(f"{pair}: expert and base both have {metric.key} {goal}")
        else:
            shares.append((score.value(metric) - start) / (goal - start))
    if problems:
        raise LorsError(
            "normalised performance is undefined",
            expected="scores of base and expert for every pair, and two different ones",
            got=problems,
        )
    return sum(shares) / len(shares)


def unhelpful_experts(base: Mapping[Pair, Score], expert: Mapping[Pair, Score]) -> list[Pair]:
    """Return the pairs, in both arguments, whose expert is not better than the base model."""
    worse = []
    for pair in base.keys() & expert.keys():
        metric = pair.speech_task.metric
        gain = expert[pair].value(metric) - base[pair].value(metric)
        if (gain >= 0) if metric.lower_is_better else (gain <= 0):
            worse.append(pair)
    return sorted(worse, key=str)
