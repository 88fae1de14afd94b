"""ESPnet's S2T task with a trainer that can resume after a kill at any moment."""

from __future__ import annotations

from espnet2.tasks.s2t import S2TTask as ESPnetS2TTask

from lors.models.espnet_trainer import ResumableTask
from lors.models.quantised_task import QuantisedTask


class S2TTask(QuantisedTask, ResumableTask, ESPnetS2TTask):
    """Training of OWSM and its kin by ``python -m lors.bin.s2t_train``, with ESPnet's options."""
