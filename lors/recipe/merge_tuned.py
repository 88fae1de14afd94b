"""Merged models with the parameters that the search on dev has chosen."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lors.done_marker import DoneMarker
from lors.recipe.expdir import ExpDir, check_models, tasks_of
from lors.recipe.sweeps import read_sweep
from lors.tasks import pairs_of

log = logging.getLogger(__name__)


def merge_tuned(
    expdir: ExpDir, methods: Sequence[str], langs: Sequence[str], scopes: Sequence[str]
) -> None:
    """Write the merged model of each method and scope; finished models are skipped.

    Raises:
        LorsError: a sweep or a model is missing, or a merged model was made with other settings.
    """
    for scope in scopes:
        pairs = [pair for task in tasks_of(scope) for pair in pairs_of(langs, [task])]
        models = [expdir.base, *map(expdir.expert, pairs)]
        check_models(models)
        digests = expdir.digests(models)
        for method in methods:
            params = read_sweep(expdir, method, scope).chosen.params
            out = expdir.merged(method, scope)
            marker = DoneMarker(out / ".done", {"params": params, "models": digests})
            if marker.is_done():
                continue
            from lors.merge import run_merge  # torch is slow to import: only if there is work
            from lors.recipe.tuner import plan_of

            with marker.work():
                run_merge(plan_of(expdir, pairs, method, params), out / "model.pth")
            log.info("%s: %s", out, dict(params))
