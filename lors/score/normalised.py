"""Normalised performance: the share of the experts' gain over the base model that a model keeps.

The LoRS-Merging paper reports a measure of this name, but its definition is not known to us. The
definition here is LoRS's own; say so wherever a value is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum

from lors.errors import LorsError
from lors.score.result import Score
from lors.tasks import Pair

SMALLEST_GAIN = 1e-9
"""In points of the metric: less is the rounding error of equal averages."""


class UndefinedPerformanceError(LorsError):
    """The experts are not better than the base model on average: no gain to keep a share of."""


def normalised_performance(
    merged: Mapping[Pair, Score], base: Mapping[Pair, Score], expert: Mapping[Pair, Score]
) -> float:
    """Compute the share of the experts' average gain: (merged - base) / (expert - base).

    merged, base and expert are averages over the languages of a task. Over several tasks it is the
    mean of their shares, weighted by their numbers of languages. 0 is the base model, 1 is as good
    as the experts, and a negative value is worse than the base model. The same holds for error
    rates: both differences change their sign.

    The share of each language would be a poor measure: where an expert gains little, it is mostly
    noise, and undefined where it gains nothing. Where the experts are worse than the base model,
    the share of their loss would be highest for the worst model.

    Args:
        merged: pair -> its scores; the averages are over these pairs.
        base: the same for the base model, at least for the pairs of `merged`.
        expert: the same, each pair scored with its own expert.

    Returns:
        The share; 1.0 is 100 %.

    Raises:
        UndefinedPerformanceError: the experts of some tasks are not better on average.
        LorsError: no pairs, or scores missing (all of them are listed).
    """
    if not merged:
        raise LorsError("normalised performance of no language-task pair is undefined")
    _check_complete(merged, base, expert)
    total, problems = 0.0, []
    for task in dict.fromkeys(pair.task for pair in merged):
        pairs = [pair for pair in merged if pair.task == task]
        metric = pairs[0].speech_task.metric
        start, goal, reached = (
            fsum(scores[pair].value(metric) for pair in pairs) for scores in (base, expert, merged)
        )
        whole = metric.gain(start, goal)
        if whole < SMALLEST_GAIN * len(pairs):
            average = "average " if len(pairs) > 1 else ""
            problems.append(
                f"{', '.join(map(str, pairs))}: {average}{metric.name} of the experts "
                f"{goal / len(pairs):.6g}, of the base model {start / len(pairs):.6g}"
            )
        else:
            total += len(pairs) * metric.gain(start, reached) / whole
    if problems:
        raise UndefinedPerformanceError(
            "normalised performance is undefined",
            expected="experts that are better than the base model",
            got=problems,
        )
    return total / len(merged)


def _check_complete(
    merged: Mapping[Pair, Score], base: Mapping[Pair, Score], expert: Mapping[Pair, Score]
) -> None:
    """Raise a LorsError with the pairs of `merged` that lack a score of base or expert."""
    absent = [
        f"{pair}: no score of the {model} model"
        for pair in merged
        for model, scores in (("base", base), ("expert", expert))
        if pair not in scores
    ]
    if absent:
        raise LorsError(
            "normalised performance needs scores of base and expert for every pair", got=absent
        )


def average_gain(merged: Mapping[Pair, Score], base: Mapping[Pair, Score]) -> float:
    """Return how much better a model is than the base model, in points, mean over its pairs.

    It orders models where normalised performance is undefined.
    """
    return fsum(_gain(pair, base, merged) for pair in merged) / len(merged)


def _gain(pair: Pair, base: Mapping[Pair, Score], reached: Mapping[Pair, Score]) -> float:
    metric = pair.speech_task.metric
    return metric.gain(base[pair].value(metric), reached[pair].value(metric))


def undefined_because(base: Mapping[Pair, Score], expert: Mapping[Pair, Score]) -> str:
    """Return why normalised performance is undefined for every model; empty if it is defined.

    Raises:
        LorsError: as :func:`normalised_performance`.
    """
    try:
        normalised_performance(base, base, expert)
    except UndefinedPerformanceError as error:
        return "; ".join(error.facts)
    return ""


def unhelpful_experts(base: Mapping[Pair, Score], expert: Mapping[Pair, Score]) -> list[Pair]:
    """Return the pairs, in both arguments, whose expert is not better than the base model."""
    pairs = base.keys() & expert.keys()
    return sorted((pair for pair in pairs if _gain(pair, base, expert) <= 0), key=str)
