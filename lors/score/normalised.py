"""Normalised performance: how much of the experts' gain over the base a merged model keeps.

The LoRS-Merging paper reports a measure of this name; its definition could not be read, so the
one here is LoRS's own and has to be called that wherever a number is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lors.errors import LorsError
from lors.tasks import Pair


def normalised_performance(
    merged: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, Mapping[str, Any]],
    expert: Mapping[str, Mapping[str, Any]],
) -> float:
    """Mean over language-task pairs of (merged - base) / (expert - base); LoRS's own definition.

    0 is the base model, 1 as good as the pair's own expert, and less than 0 worse than the base.
    The sign of an error rate is flipped in numerator and denominator, so that it cancels: what
    counts is the share of the way from the base to the expert. Beware of a pair whose expert is
    worse than the base: there the share grows as the merged model gets worse (see
    :func:`unhelpful_experts`).

    Args:
        merged: pair (``de_asr``) -> its scores (``{"wer": 20.0, ...}``); only these are averaged.
        base: the same for the base model, at least for the pairs of `merged`.
        expert: the same, each pair scored with its own expert.

    Returns:
        the mean; 1.0 is 100 %.

    Raises:
        LorsError: no pairs, scores missing, or expert and base equal (all such pairs named).
    """
    if not merged:
        raise LorsError("normalised performance of no language-task pair is undefined")
    problems, shares = [], []
    for pair in merged:
        key = Pair.parse(pair).speech_task.metric.key
        absent = [
            f"{pair}: no '{key}' of the {who} model"
            for who, scores in (("merged", merged), ("base", base), ("expert", expert))
            if key not in scores.get(pair, {})
        ]
        problems += absent
        if absent:
            continue
        start, goal = base[pair][key], expert[pair][key]
        if start == goal:
            problems.append(f"{pair}: expert and base both have {key} {goal}")
        else:
            shares.append((merged[pair][key] - start) / (goal - start))
    if problems:
        raise LorsError(
            "normalised performance is undefined",
            expected="for every pair a score of merged, base and expert, expert unlike base",
            got="\n    " + "\n    ".join(problems),
        )
    return sum(shares) / len(shares)


def unhelpful_experts(
    base: Mapping[str, Mapping[str, Any]], expert: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Pairs (of both arguments) whose expert is not better than the base model."""
    worse = []
    for pair in base.keys() & expert.keys():
        metric = Pair.parse(pair).speech_task.metric
        gain = expert[pair][metric.key] - base[pair][metric.key]
        if (gain >= 0) if metric.lower_is_better else (gain <= 0):
            worse.append(pair)
    return sorted(worse)
