"""A weight for each expert, searched on dev from the best common setting.

The search goes along one coordinate after the other, from the weights of the best setting of the
grid. It tries each weight one step higher, then one step lower, and keeps the first change that
raises normalised performance. A round without a change halves the step.

With successive halving, weights are first compared with the best ones on the first share of the
clips; only better ones see the others. So the same budget has room for more weights.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from lors.recipe.expdir import tasks_of
from lors.recipe.report import Section
from lors.recipe.sweeps import SCALING, Sweep, Trial
from lors.score import normalised_performance
from lors.score.normalised import UndefinedPerformanceError
from lors.tasks import Pair

WEIGHTS = "weights"
"""The option of a merge plan with a weight for each expert."""
STEP = 0.5
"""First step of a weight, in units of the common weight."""
SMALLEST_STEP = 2.0**-30
"""The search ends before smaller steps, which would give the same model in 32 bits."""


def coordinate_search(
    start: Sequence[float], objective: float
) -> Generator[list[float], float, None]:
    """Yield weights to try, down to `SMALLEST_STEP`; ``send`` takes the objective of the latest.

    Args:
        start: the first weights. No weight becomes negative, and none are tried twice.
        objective: objective of `start`; higher is better.
    """
    best, step, known = list(start), STEP, {tuple(start)}
    while step >= SMALLEST_STEP:
        improved = False
        for place in range(len(best)):
            for change in (step, -step):
                weights = [*best[:place], best[place] + change, *best[place + 1 :]]
                if weights[place] < 0 or tuple(weights) in known:
                    continue
                known.add(tuple(weights))
                found = yield weights
                if found > objective:
                    best, objective, improved = weights, found, True
                    break
        if not improved:
            step /= 2


def weights_in(setting: Mapping[str, Any], experts: int) -> list[float]:
    """Return the weights of a setting; by default all are 1."""
    return [float(weight) for weight in setting.get(WEIGHTS) or (1.0,) * experts]


def contribution_sections(sweeps: Sequence[Sweep]) -> list[Section]:
    """Return the table of what each expert contributes; none without searched weights."""
    rows = [row for sweep in sweeps for row in _rows(sweep)]
    if not rows:
        return []
    header = ["method", "tasks", "run", "expert", "weight", "share in the sum"]
    header += ["own pair", "other pairs", "all pairs"]
    above = [
        "Normalised performance on dev that the chosen merge loses without the expert (its weight "
        "set to 0): on the expert's own pair, on the other pairs, and on all. A negative number "
        "says that the merge is better without it; a dash, that the experts gain nothing there.",
    ]
    return [Section("Contribution of each expert", header, rows, 4, above)]


def _rows(sweep: Sweep) -> list[list[str]]:
    if not sweep.without:
        return []
    pairs = list(sweep.chosen.scores)
    weights = weights_in(sweep.chosen.params, len(pairs))
    rows = []
    for pair, weight, without in zip(pairs, weights, sweep.without, strict=True):
        others = [other for other in pairs if other != pair]
        losses = [_loss(sweep, without, part) for part in ([pair], others, pairs)]
        shares = [f"{weight:g}", f"{weight * sweep.chosen.params.get(SCALING, 1):.3g}"]
        cells = ["-" if loss is None else f"{loss:+.3f}" for loss in losses]
        place = [sweep.method, " + ".join(tasks_of(sweep.scope)), sweep.expdir, str(pair)]
        rows.append([*place, *shares, *cells])
    return rows


def _loss(sweep: Sweep, without: Trial, pairs: Sequence[Pair]) -> float | None:
    """Return the normalised performance that the merge loses; None where it is undefined."""
    if not pairs:
        return None
    try:
        kept, left = (
            normalised_performance({p: trial.scores[p] for p in pairs}, sweep.base, sweep.expert)
            for trial in (sweep.chosen, without)
        )
    except UndefinedPerformanceError:
        return None
    return kept - left
