"""Options of ``s3net.sh``: sub-networks of languages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from lors.config import Range
from lors.errors import UsageError
from lors.recipe.expdir import LORA, SUBNETS, ExpDir, subnet_system
from lors.recipe.grid import read_grid
from lors.recipe.mask_rounds import halves
from lors.recipe.script_options import ComparisonOptions, Lists, check_all
from lors.recipe.subnetworks import OF_MASKS, OF_SCORES, check_own
from lors.recipe.training_config import check_masked_config
from lors.recipe.training_options import read_training_options
from lors.subnet.criteria import BY_TAYLOR, Criterion
from lors.tasks import pairs_of

RATES = frozenset(str(rate) for rate in range(10, 91))
"""Pruning rates of masks in percent, as they are typed."""
OF_EXPERTS = frozenset({"tune", "merge", "inference", "overlap", "score"})
"""Stages after the training under masks that read experts."""


@dataclass(frozen=True)
class S3netOptions(ComparisonOptions):
    """Options of ``s3net.sh``."""

    criteria: tuple[Criterion, ...]
    rates: tuple[str, ...]
    mask_scope: Literal["matrix", "global"]
    mask_rounds: Annotated[int, Range(1, 2)]
    lora_config: str
    s3net_config: str
    pretrained: str

    def completed(self, name: str) -> str:
        if name == "base_model" and self.pretrained and not self.base_model:
            return str(ExpDir(self.pretrained).base)
        if name == "s3net_config" and not self.s3net_config:
            # The batches of experts and joint model: a fair comparison.
            return self.completed("train_config")
        return super().completed(name)

    def lists(self, stages: Collection[str]) -> Lists:
        found: dict[str, Sequence[str]] = {}
        checks: list[Callable[[], Any]] = [
            self._check_rates,
            lambda: found.update(super(S3netOptions, self).lists(stages)),
        ]
        if {"importance", "subnets"}.intersection(stages):
            checks.append(self._check_training)
        if "experts" in stages and self.lora_config:
            checks.append(lambda: read_training_options(self.lora_config))
        if "tune" in stages:
            checks.append(self._check_masks_of_merges)
        if {"importance", "masks", "subnets"}.intersection(stages) and not self.pretrained:
            for name in (OF_MASKS, OF_SCORES):
                checks.append(partial(check_own, Path(self.expdir) / name))
        check_all(checks)
        subnets = self._subnets()
        # English alone has nothing to translate into English.
        masked = list(dict.fromkeys(pair.lang for pair in pairs_of(found["langs"], self.tasks)))
        return {
            **{name: words for name, words in found.items() if name != "packed"},
            "s3net_config": [self.completed("s3net_config")],
            "criteria": self.criteria,
            "rates": self.rates,
            "subnets": subnets,
            "experts": found["pairs"] if self._needs_experts(stages) else [],
            "masked": masked,
            # The claims are about sub-networks.
            "report_options": ["--compare_to", self.compare_to or subnets[0]],
            "scored": [] if self.pretrained or BY_TAYLOR.isdisjoint(self.criteria) else masked,
            "from_pretrained": ["--pretrained", self.pretrained] if self.pretrained else [],
        }

    def _needs_experts(self, stages: Collection[str]) -> bool:
        """Return whether stage experts is to train any.

        A run that ends with the training under masks by Taylor scores reads none. One that ends
        before it may go on to stages that do.
        """
        by_weights = not BY_TAYLOR.issuperset(self.criteria)
        return by_weights or "subnets" not in stages or bool(OF_EXPERTS.intersection(stages))

    def _check_training(self) -> None:
        """Check the options of the training under masks, before the hours of other models."""
        path = self.completed("s3net_config")
        config = read_training_options(path)
        check_masked_config(config, path)
        if self.mask_rounds == 2:
            halves(config)

    def _check_rates(self) -> None:
        wrong = [rate for rate in self.rates if rate not in RATES]
        problems = [f"{rate}: expected a whole percentage from 10 to 90" for rate in wrong]
        problems += [f"{rate}: given twice" for rate in {*self.rates} if self.rates.count(rate) > 1]
        if problems or not self.rates or not self.criteria:
            raise UsageError(
                "no such masks",
                where="--criteria and --rates",
                expected="one or more of each",
                got=problems or "none given",
            )

    def _check_masks_of_merges(self) -> None:
        """Check that this run makes the masks that the merge methods use."""
        points = read_grid(self.tune_config, self.methods).points
        used = {point["masks"] for of in points.values() for point in of if "masks" in point}
        made = {system.removeprefix(SUBNETS) for system in self._subnets()}
        if unknown := sorted(map(str, used - made)):
            raise UsageError(
                "merge methods with masks that this run does not make",
                where=self.tune_config,
                expected=", ".join(sorted(made)),
                got=unknown,
                hint="leave these methods out of --methods, or name masks of --criteria and "
                "--rates in the file",
            )

    def _subnets(self) -> list[str]:
        """Return the systems that are trained under masks."""
        return [subnet_system(criterion, r) for criterion in self.criteria for r in self.rates]

    def _systems(self) -> list[str]:
        systems, place = super()._systems(), len(("base", "expert", *self.baselines))
        adapters = [LORA] if self.lora_config else []
        return [*systems[:place], *adapters, *self._subnets(), *systems[place:]]
