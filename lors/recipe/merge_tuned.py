"""Merged models with the parameters that the search on dev has chosen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lors.done_marker import DoneMarker
from lors.recipe.cost import MERGING, Cost
from lors.recipe.expdir import ExpDir, check_models, tasks_of
from lors.recipe.subnetworks import masks_used
from lors.recipe.sweeps import read_sweep
from lors.tasks import pairs_of

log = logging.getLogger(__name__)


def merge_tuned(
    expdir: ExpDir, methods: Sequence[str], langs: Sequence[str], scopes: Sequence[str]
) -> None:
    """Write the merged model of each method and scope; finished models are skipped.

    The CPU time of a merge is written beside its model (:mod:`lors.recipe.cost`).

    Raises:
        LorsError: a sweep or a model is missing, or a merged model was made with other settings.
    """
    for scope in scopes:
        pairs = [pair for task in tasks_of(scope) for pair in pairs_of(langs, [task])]
        models = [expdir.base, *map(expdir.expert, pairs)]
        check_models(models)
        digests = expdir.digests(models)
        for method in methods:
            sweep = read_sweep(expdir, method, scope)
            params, out = sweep.chosen.params, expdir.merged(method, scope)
            variant = {} if sweep.variant_of is None else {"method": sweep.variant_of}
            inputs = {**variant, "params": params, "models": digests}
            marker = DoneMarker(out / ".done", {**inputs, **masks_used(expdir, [params])})
            if marker.is_done():
                continue
            import torch  # slow to import: only if there is work

            from lors.merge import run_merge
            from lors.recipe.tuner import plan_of

            with marker.work():
                cost = Cost(out)
                with cost.measured(MERGING):
                    plan = plan_of(expdir, pairs, sweep.merge_method, params)
                    run_merge(plan, out / "model.pth", nj=torch.get_num_threads())
                cost.write()
            log.info("%s: %s", out, dict(params))
