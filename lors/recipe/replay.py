"""Successive halving replayed on finished searches: the same choice, at which cost?

A search over the plain grid keeps the hypotheses of every setting. From these follows what the
search would have chosen with successive halving, without inference.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.errors import LorsError
from lors.recipe.eval_set import read_eval_set
from lors.recipe.expdir import ExpDir, tasks_of
from lors.recipe.halving import Halving, clip_order, first_clips, rounds_of, trials_by_rounds
from lors.recipe.points import Points, trial_of
from lors.recipe.report import Section, render_text
from lors.recipe.sweeps import Sweep, Trial, chosen_index, read_sweeps
from lors.score import without_words
from lors.tasks import Pair


@dataclass(frozen=True)
class Replay:
    """A search over the plain grid, and the same search with successive halving.

    Attributes:
        plain: the search over the plain grid.
        halved: what it would have been; its trials of the chosen point are those of `plain`.
    """

    plain: Sweep
    halved: Sweep

    @property
    def is_same(self) -> bool:
        """Whether the choice is the same."""
        return self.halved.best == self.plain.best

    @property
    def loss(self) -> float:
        """Normalised performance on dev that the choice loses; 0 for the same choice."""
        return self.plain.chosen.objective - self.plain.grid[self.halved.best].objective


def replay_all(
    expdirs: Sequence[str | os.PathLike], dump: str | os.PathLike, halving: Halving
) -> str:
    """Replay all searches of some experiments; return the table as text.

    Args:
        expdirs: experiment directories with finished searches over the plain grid.
        dump: their data directories ``<lang>/dev``, for the references.
        halving: the rule.

    Raises:
        LorsError: no search can be replayed, or files are missing or malformed.
    """
    sweeps, left_out = [], []
    for sweep in read_sweeps(expdirs):
        if len(sweep.grid) == 1:
            continue  # nothing to choose
        name = f"{sweep.method}.{sweep.scope} in {sweep.expdir}"
        if sweep.evaluations < sweep.plain_evaluations:
            left_out.append(f"{name}: successive halving was used")
        elif sweep.without:
            left_out.append(f"{name}: a weight for each expert was searched")
        elif sweep.undefined:
            left_out.append(f"{name}: normalised performance is undefined")
        elif not sweep.base or not Points.directory_of(_path(sweep)).is_dir():
            left_out.append(f"{name}: an older version of LoRS kept no hypotheses")
        else:
            sweeps.append(sweep)
    if not sweeps:
        raise LorsError(
            "no search to replay",
            expected="finished searches over the plain grid, with more than one setting",
            got=left_out or ", ".join(map(str, expdirs)),
        )
    langs = sorted({pair.lang for sweep in sweeps for pair in sweep.base})
    dev = {lang: read_eval_set(Path(dump) / lang / "dev").references for lang in langs}
    references = {pair: dev[pair.lang][pair.task] for sweep in sweeps for pair in sweep.base}
    found = [replay(sweep, references, halving) for sweep in sweeps]
    section = _section(found, halving, left_out)
    return render_text([section], "Successive halving", f"Searches of {len(expdirs)} experiments.")


def replay(sweep: Sweep, references: Mapping[Pair, Mapping[str, str]], halving: Halving) -> Replay:
    """Replay one search from its kept hypotheses.

    Raises:
        LorsError: kept hypotheses are missing or malformed.
    """
    files = Points(_path(sweep), {pair: references[pair] for pair in sweep.base})
    points = files.read(len(sweep.grid))
    if missing := [files.path(k) for k in range(len(sweep.grid)) if k not in points]:
        raise LorsError("kept hypotheses are missing", got=missing, hint="run stage tune again")
    order = {
        pair: clip_order(points[0].hypotheses[pair], without_words(pair, references[pair]))
        for pair in sweep.base
    }

    def try_point(index: int, share: float) -> Trial:
        wanted, hypotheses = first_clips(order, share), points[index].hypotheses
        setting = sweep.grid[index].params
        return trial_of(setting, hypotheses, wanted, references, sweep.base, sweep.expert)

    trials = dict(trials_by_rounds(rounds_of(len(sweep.grid), halving), try_point))
    grid = tuple(trials[index] for index in range(len(sweep.grid)))
    return Replay(sweep, dataclasses.replace(sweep, grid=grid, best=chosen_index(grid)))


def _path(sweep: Sweep) -> Path:
    return ExpDir(sweep.expdir).sweep(sweep.method, sweep.scope)


def _section(found: Sequence[Replay], halving: Halving, left_out: Sequence[str]) -> Section:
    rows = [
        [
            *(one.plain.method, " + ".join(tasks_of(one.plain.scope)), one.plain.expdir),
            f"{one.plain.chosen.objective:.3f}",
            "the same" if one.is_same else f"{-one.loss:+.3f}",
            str(one.plain.evaluations),
            str(one.halved.evaluations),
        ]
        for one in found
    ]
    plain, halved = (
        sum(getattr(one, of).evaluations for one in found) for of in ("plain", "halved")
    )
    below = [
        f"The same choice in {sum(one.is_same for one in found)} of {len(found)} searches; "
        f"{100 * (1 - halved / plain):.0f} % of the evaluations saved; mean loss of dev normalised "
        f"performance {statistics.fmean(one.loss for one in found):.4f}, largest "
        f"{max(one.loss for one in found):.4f}.",
        *(f"Left out: {name}." for name in left_out),
    ]
    above = [
        f"First round on {halving.first:g} of the clips; {halving.keep:g} of the points go on."
    ]
    header = ["method", "tasks", "run", "dev norm. perf.", "with halving", "evaluations"]
    header.append("with halving")
    return Section("Plain grid and successive halving", header, rows, 3, above, below)
