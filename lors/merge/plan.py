"""What to merge: a checked plan, and its opened files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import check_same_vocabulary
from lors.config import FLOAT32, Range, check, keys_of
from lors.errors import LorsError, UsageError
from lors.merge.methods import METHODS, MergeMethod, method_called
from lors.merge.policy import Action, Policy, find_policy, load_policy
from lors.merge.task_vector import TaskVector


@dataclass(frozen=True)
class MergePlan:
    """What to merge and how. Checked and completed with defaults when made; paths become texts.

    Args:
        base: checkpoint file of the base model.
        experts: checkpoint files of models fine-tuned from it.
        method: name of a merge method.
        params: the method's parameters and scaling_coef; missing ones get their defaults.
        policy: a policy's name or file; by default found from the names of the tensors.
        dtype: of the merged floating-point tensors; by default each keeps that of the base model,
            or of `onto`.
        seed: for methods that draw random numbers.
        weights: factor of each expert's task vector, negative to take it away; by default 1.
        svc: alpha of the calibration of singular values (:mod:`lors.linalg.calibration`) of
            the pruned matrices, for a method that is a sum; by default there is none.
        onto: a merged model that the result is added to in place of the base model, so that
            experts come to it, or by negative weights leave it, without those it has; for a
            method that is a sum.

    Raises:
        UsageError: a value of a wrong type or out of range, no experts, an unknown method, or wrong
            parameters.
    """

    base: str
    experts: tuple[str, ...]
    method: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    policy: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    seed: Annotated[int, Range(0)] = 0
    weights: tuple[Annotated[float, FLOAT32], ...] = ()
    svc: Annotated[float, Range(1e-6)] | None = None
    onto: str | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in check(keys_of(MergePlan), given, "the merge plan").items():
            object.__setattr__(self, name, value)
        if not self.experts:
            raise UsageError(
                "nothing to merge", where="experts", expected="one or more checkpoints"
            )
        where = f"params of the merge method {self.method}"
        params = self.merge_method.resolve(self.params, len(self.experts), where)
        object.__setattr__(self, "params", params)
        weights = self.weights or (1.0,) * len(self.experts)
        if len(weights) != len(self.experts):
            raise UsageError(
                "a weight for every expert, or none at all",
                where="weights",
                expected=f"{len(self.experts)} numbers",
                got=" ".join(f"{weight:g}" for weight in weights),
            )
        object.__setattr__(self, "weights", weights)
        for option in ("svc", "onto"):
            if getattr(self, option) is not None and not self.merge_method.per_expert:
                sums = [name for name in METHODS if METHODS[name].per_expert]
                raise UsageError(
                    f"{option} needs a method that sums what every expert adds by itself",
                    where=f"the merge method {self.method}",
                    expected=f"one of: {', '.join(sums)}",
                )

    @property
    def merge_method(self) -> MergeMethod:
        return method_called(self.method)

    @property
    def scaling_coef(self) -> float:
        return self.params["scaling_coef"]

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else getattr(torch, self.dtype)


@dataclass(frozen=True)
class MergeInputs:
    """The opened files of a plan; plans that differ in method, params or dtype share them."""

    base: Checkpoint
    vectors: tuple[TaskVector, ...]
    policy: Policy
    actions: dict[str, Action]
    onto: Checkpoint
    """What the delta is added to: the base model itself, or the plan's `onto`."""

    def files(self) -> set[Path]:
        """All files that the models are read from, without symbolic links."""
        models = [self.base, self.onto, *(vector.finetuned for vector in self.vectors)]
        return {file.resolve() for model in models for file in model.files()}


def open_inputs(plan: MergePlan) -> MergeInputs:
    """Open the files of a plan and check that they fit together; no values are read yet.

    Raises:
        LorsError: a file cannot be read, an expert has another vocabulary or structure than
            the base model, or no policy fits.
    """
    check_same_vocabulary(plan.base, *plan.experts)
    base = open_model(plan.base)
    vectors = tuple(TaskVector(base, open_expert(base, path)) for path in plan.experts)
    if plan.policy is None:
        policy = find_policy(base.names(), where=plan.base)
    else:
        policy = load_policy(plan.policy)
    onto = base
    if plan.onto is not None:
        onto = TaskVector(base, open_expert(base, plan.onto)).finetuned
    return MergeInputs(base, vectors, policy, policy.actions(base.spec()), onto)


def check_inputs(plan: MergePlan, inputs: MergeInputs) -> None:
    """Check that there is something to merge in the way of the plan.

    Raises:
        LorsError: as :func:`check_distinct`; or the method is one of matrices, and the policy finds
            no matrix to prune.
    """
    check_distinct(inputs)
    if plan.merge_method.scope == "matrices" and "prune" not in inputs.actions.values():
        raise LorsError(
            "there is no matrix to prune, so that this method would do nothing of its own",
            where=f"the policy {plan.policy or inputs.policy.family} on {plan.base}",
            expected=f"matrices for the merge method {plan.method}",
            hint="leave --policy out, so that it is found from the names of the tensors, or write "
            "one for this model",
        )


def check_distinct(inputs: MergeInputs) -> None:
    """Check by their values that no expert is the base model or `onto`, and none is given twice.

    Different models differ in one of their first tensors, so hardly anything is read.

    Raises:
        LorsError: two of the models hold the same weights; all such experts are listed.
    """
    known = [(inputs.base, f"the base model {inputs.base.path}")]
    models = [(vector.finetuned, "the expert") for vector in inputs.vectors]
    if inputs.onto is not inputs.base:
        models.insert(0, (inputs.onto, "the merged model"))
    problems = []
    for model, kind in models:
        for other, title in known:
            if _same_weights(other, model):
                problems.append(f"{model.path} holds the same weights as {title}")
                break
        else:
            known.append((model, f"{kind} {model.path}"))
    if problems:
        raise LorsError(
            "the models to merge are not all different",
            got="\n    - ".join(["", *problems]),
            hint="give the base model once and every expert once; onto is a merge of other experts",
        )


def _same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    # Matrices first: of some biases and counters all experts may have the same values.
    names = sorted(one.names(), key=lambda name: -len(one.shape(name)))
    return all(torch.equal(one.tensor(name), other.tensor(name)) for name in names)
