"""Dev hypotheses of the base model and the experts: the ends between which searches measure.

Every search of an experiment needs them, so they are kept in ``tune/ends``. Jobs that search at the
same time decode them in different orders, and each job reads what another has written.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from lors.errors import LorsError
from lors.fileio import read_json, write_json
from lors.models.family import InferenceOptions
from lors.recipe.eval_set import EvalSet, digests_of
from lors.recipe.expdir import ExpDir, model_digest
from lors.tasks import Pair

Item = TypeVar("Item")


class Ends:
    """The kept hypotheses of an experiment.

    Args:
        expdir: the experiment.
        dump: data directories ``<lang>/dev``.
        options: settings of inference.
    """

    def __init__(self, expdir: ExpDir, dump: Path, options: InferenceOptions):
        self.expdir, self.dump = expdir, dump
        self.settings = options.settings()

    def hypotheses(
        self, model: Path, pair: Pair, dev: EvalSet, decode: Callable[[], dict[str, str]]
    ) -> dict[str, str]:
        """Return utterance id -> hypothesis of a model.

        They are decoded unless they are kept from the same model, data and settings.

        Args:
            model: directory of the model.
            pair: language and task.
            dev: the evaluation set.
            decode: runs inference.
        """
        path = self.expdir.root / "tune" / "ends" / f"{model.name}.{pair}.json"
        made_from = {
            "model": model_digest(model),
            "data": digests_of(self.dump / pair.lang / "dev"),
            "options": self.settings,
        }
        made_from = json.loads(json.dumps(made_from))  # as it is read again
        kept = _read(path)
        if kept.get("made_from") == made_from and _fits(kept.get("hypotheses"), dev):
            return dict(kept["hypotheses"])
        found = decode()
        write_json(path, {"made_from": made_from, "hypotheses": found})
        return found


def in_any_order(items: Iterable[Item]) -> list[Item]:
    """Return the items in an order of their own for each job, so that jobs share the work."""
    shuffled = list(items)
    random.SystemRandom().shuffle(shuffled)
    return shuffled


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file; empty if it is not there or damaged: it is made again."""
    try:
        content = read_json(path)
    except LorsError:
        return {}
    return content if isinstance(content, dict) else {}


def _fits(hypotheses: Any, dev: EvalSet) -> bool:
    return (
        isinstance(hypotheses, dict)
        and hypotheses.keys() == {*dev.ids}
        and all(isinstance(text, str) for text in hypotheses.values())
    )
