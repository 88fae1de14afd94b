"""Small experts: the low-rank part of a task vector as an adapter, or its low-rank and sparse part.

Both are made with the code of the merge methods ``svp`` and ``lors``. So a merge with ``lors`` of
the file of a task vector gives the model that a merge of the full expert gives, except for the
rounding to float16 (:mod:`lors.checkpoint.vector_parts`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from lors.checkpoint.adapter_base import base_record, hash_of_weights, record_base
from lors.checkpoint.hub import local_path, origin_of
from lors.checkpoint.peft_writer import base_name_for_peft, check_linear, write_peft
from lors.checkpoint.quantised import QuantisedCheckpoint, open_quantised
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vector_file import VERSION, Description, write_vector
from lors.checkpoint.vector_parts import delta_of, reduced_parts, whole_parts
from lors.errors import LorsError, shortened
from lors.fileio import atomic_directory, write_json
from lors.log import show_progress
from lors.merge.engine import Merger
from lors.merge.extract_target import RECORD, check_place
from lors.merge.methods.lors import lors_parts
from lors.merge.plan import MergeInputs, MergePlan, open_inputs
from lors.merge.policy import Action

Form = Literal["lora", "lors"]
METHOD_OF = {"lora": "svp", "lors": "lors"}
"""Form of a small expert -> the merge method whose term it holds."""


@dataclass(frozen=True)
class Held:
    """The energy (sum of squares) of a task vector in one tensor, and the part that is left out.

    Attributes:
        action: action of the policy.
        energy: energy of the task vector.
        lost: energy of its difference to the small expert.
        rank: rank of the low-rank part; None for a tensor without one.
    """

    action: Action
    energy: float
    lost: float
    rank: int | None = None

    @property
    def share(self) -> float | None:
        """The share of the energy that the small expert holds; None if there is no energy."""
        return held_share([self])


def held_share(tensors: list[Held]) -> float | None:
    """Return the share of the energy of these tensors that is held; None without energy."""
    energy = math.fsum(held.energy for held in tensors)
    return 1 - math.fsum(held.lost for held in tensors) / energy if energy else None


def extract(
    plan: MergePlan,
    form: Form,
    out: str | os.PathLike,
    nj: int = 1,
    quantised_base: str | os.PathLike | None = None,
) -> dict[str, Held]:
    """Write a small expert.

    Args:
        plan: base model, one expert, the method of `form` (`METHOD_OF`) and its parameters.
        form: ``lora``: an adapter of PEFT with the best approximation of each pruned matrix;
            ``lors``: the file of a task vector, with pruned matrices as low-rank and sparse parts
            and all other tensors whole.
        out: a directory for ``lora``, a ``.safetensors`` file for ``lors``. An older result of the
            same command is replaced.
        nj: number of threads; the result does not depend on it.
        quantised_base: for ``lora``: the base model in 4 bits, to record as that of the adapter.

    Returns:
        The energy that is held, for each tensor that is merged.

    Raises:
        UsageError: `out` is there and is not from the same command, or has a wrong name; or `nj` is
            less than 1.
        LorsError: as :func:`lors.merge.plan.open_inputs`; NaN or infinite values; for ``lora`` a
            pruned tensor is not the weight of a linear layer, no matrix has changed, or
            `quantised_base` is made from another model; or writing fails.
    """
    out = Path(out)
    inputs = open_inputs(plan)
    quantised = None if quantised_base is None else _quantised(inputs.base, quantised_base)
    made_from = _options(plan, form, inputs, out, quantised)
    check_place(out, form, inputs, made_from)
    if form == "lora":
        spec = inputs.base.spec()
        check_linear({name: spec[name][0] for name in inputs.names("prune")}, plan.base)
    _warn_of_copied(inputs)
    merger = Merger(plan, inputs, nj)
    work = _Lora(merger, quantised) if form == "lora" else _Lors(merger)
    held: dict[str, Held] = {}
    for name, found in tqdm(
        merger.run(work.extract),
        total=len(inputs.actions),
        desc=f"extract ({form})",
        unit="tensor",
        disable=not show_progress(),
    ):
        if found is not None:
            work.kept[name], held[name] = found
    work.write(out, held, made_from)
    return held


class _Form:
    """A form of a small expert.

    Attributes:
        kept: tensor -> what the small expert holds of it.
    """

    def __init__(self, merger: Merger):
        self.merger, self.plan, self.inputs = merger, merger.plan, merger.inputs
        self.kept: dict[str, Any] = {}

    def extract(self, name: str) -> tuple[Any, Held] | None:
        """Return what the small expert holds of a tensor, and its energy; None if it is copied."""
        action = self.inputs.actions[name]
        self.merger.check_values(name)
        if action == "copy":
            return None
        delta = self.inputs.vectors[0].delta(name)
        kept, restored, rank = self.reduce(name, delta, action)
        lost = delta if restored is None else delta - restored
        return kept, Held(action, _energy(delta), _energy(lost), rank)

    def reduce(
        self, name: str, delta: Tensor, action: Action
    ) -> tuple[Any, Tensor | None, int | None]:
        """Return what is kept of a task vector, the task vector made of that, and the rank."""
        raise NotImplementedError


class _Lora(_Form):
    """The factors of each pruned matrix.

    Attributes:
        recorded: the base model that inference adds them to.
    """

    def __init__(self, merger: Merger, quantised: QuantisedCheckpoint | None):
        super().__init__(merger)
        self.recorded: Checkpoint = quantised or self.inputs.base

    def reduce(
        self, name: str, delta: Tensor, action: Action
    ) -> tuple[Any, Tensor | None, int | None]:
        if action != "prune" or not delta.any():
            return None, None, 0 if action == "prune" else None
        rank = self.plan.params["rank"]
        factors = _thin(*self.merger.context(name).low_rank_of(0)(delta, rank))
        return factors, (factors[0] @ factors[1]).float(), factors[0].shape[1]

    def write(self, out: Path, held: Mapping[str, Held], made_from: Mapping[str, Any]) -> None:
        factors = {name: pair for name, pair in self.kept.items() if pair and pair[0].shape[1]}
        if not factors:
            raise LorsError(
                "nothing to extract: no matrix that an adapter can hold has changed",
                where=self.plan.experts[0],
                expected=f"a change of one or more of {len(self.inputs.names('prune'))} matrices",
                hint="extract --as lors, which holds the changes of all tensors",
            )
        if self.recorded is not self.inputs.base:
            self._warn_of_convolutions(held)
        names = self.inputs.base.names()
        with atomic_directory(out, replace=True) as folder:
            rank = self.plan.params["rank"]
            write_peft(folder, factors, rank, names, base_name_for_peft(self.plan.base))
            record_base(self.recorded, folder)
            shares = {name: held[name].share for name in held}
            write_json(folder / RECORD, {"made_from": made_from, "energy": shares})

    def _warn_of_convolutions(self, held: Mapping[str, Held]) -> None:
        """Warn of changed convolutions: adapters on quantised models may have had factors there."""
        shapes = {name: self.inputs.base.shape(name) for name in held}
        changed = [name for name, of in held.items() if len(shapes[name]) > 2 and of.lost]
        if left_out := [name for name in changed if held[name].action != "prune"]:
            logging.warning(
                "left out, because the adapter has linear layers only: the changes of %s",
                ", ".join(shortened(left_out)),
            )


class _Lors(_Form):
    """The low-rank and sparse parts of each pruned matrix, and the other tensors."""

    def reduce(
        self, name: str, delta: Tensor, action: Action
    ) -> tuple[Any, Tensor | None, int | None]:
        parts, rank = whole_parts(delta), None
        if action == "prune" and parts:
            context, matrix = self.merger.context(name), delta.reshape(delta.shape[0], -1)
            up, down, sparse = lors_parts(
                matrix,
                low_rank=context.low_rank_of(0),
                global_threshold=context.threshold_of(0),
                **self.plan.method_params,
            )
            up, down = _thin(up, down)
            rank = up.shape[1]
            # A matrix that the method keeps as it is takes less space without parts.
            if not torch.equal((up @ down).float() + sparse, matrix):
                parts = reduced_parts(up, down, sparse)
        return parts, delta_of(parts, tuple(delta.shape)) if parts else None, rank

    def write(self, out: Path, held: Mapping[str, Held], made_from: Mapping[str, Any]) -> None:
        shares = {name: held[name].share for name in held if held[name].action == "prune"}
        description = Description(
            version=VERSION,
            method=self.plan.method,
            params=self.plan.plain_params,
            reduced={name: 1.0 if share is None else share for name, share in shares.items()},
            base=base_record(self.inputs.base, out.parent),
            content="",
            made_from=dict(made_from),
        )
        parts = {f"{name}:{part}": t for name, of in self.kept.items() for part, t in of.items()}
        write_vector(out, parts, description)


def _quantised(base: Checkpoint, quantised: str | os.PathLike) -> QuantisedCheckpoint:
    """Open a quantised model; LorsError if it is neither `base` in 4 bits nor the same weights."""
    model = open_quantised(quantised)
    weights = hash_of_weights(base)
    if weights not in (model.full_precision, hash_of_weights(model)):
        raise LorsError(
            "this quantised model is made from another base model",
            where=model.path,
            expected=f"{base.path} in 4 bits",
            got=f"made from a model with the fingerprint {model.full_precision}, not {weights}",
            hint="quantise the base model: lors quantise",
        )
    return model


def _options(
    plan: MergePlan,
    form: Form,
    inputs: MergeInputs,
    out: Path,
    quantised: QuantisedCheckpoint | None,
) -> dict[str, Any]:
    """Return the options of the command that makes `out`; paths are relative to its place."""
    options: dict[str, Any] = {
        "as": form,
        "base": _recorded(plan.base, out.parent),
        "expert": _recorded(plan.experts[0], out.parent),
        "params": plan.plain_params,
        "policy": plan.policy or inputs.policy.name,
    }
    if form == "lora":
        place = None if quantised is None else _recorded(str(quantised.path), out.parent)
        options["quantised_base"] = place
    return options


def _recorded(source: str, directory: Path) -> str:
    """Return the path of a model, relative to a directory; or its name on the Hub."""
    return origin_of(local_path(source)) or os.path.relpath(source, directory)


def _thin(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors with no more columns than the full rank of their product."""
    rows, columns = up.shape[0], down.shape[1]
    if up.shape[1] <= min(rows, columns):
        return up, down
    product = up @ down
    identity = torch.eye(min(rows, columns), dtype=product.dtype)
    return (identity, product) if rows < columns else (product, identity)


def _energy(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _warn_of_copied(inputs: MergeInputs) -> None:
    """Warn of tensors that a merge copies from the base model and the expert has changed."""
    base, expert = inputs.base, inputs.experts[0]
    weights = [name for name in inputs.names("copy") if base.dtype(name).is_floating_point]
    changed = [n for n in weights if not torch.equal(base.tensor(n), expert.tensor(n))]
    if changed:
        logging.warning(
            "left out, because no merge uses them: the changes of %s", ", ".join(shortened(changed))
        )
