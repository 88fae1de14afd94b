"""A merge plan, and the open files of a plan."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.hub import local_path
from lors.checkpoint.masks import check_unmasked
from lors.checkpoint.reader import Checkpoint
from lors.checkpoint.vocabulary import check_same_vocabulary
from lors.config import FLOAT32, Range, check, keys_of
from lors.errors import LorsError, UsageError
from lors.merge.methods import METHODS, MergeMethod, method_called
from lors.merge.policy import Action, Policy, find_policy, load_policy
from lors.merge.shares import Shares
from lors.merge.task_vector import TaskVector

SAMPLED = 8
"""Matrices that tell an expert of this base model from one of another."""


@dataclass(frozen=True)
class MergePlan:
    """The models to merge, the method and its parameters.

    A new plan is checked and completed with the defaults.

    Args:
        base: checkpoint file of the base model, or its name on the Hugging Face Hub
            (:mod:`lors.checkpoint.hub`).
        experts: checkpoint files or names of models fine-tuned from it.
        method: name of a merge method.
        params: parameters of the method and scaling_coef; missing ones get their defaults.
        policy: name or file of a policy; by default found from the names of the tensors.
        dtype: dtype of the merged floating-point tensors; by default that of the base model, or of
            `onto`.
        seed: seed of methods that draw random numbers.
        weights: factor of each expert's task vector, negative to remove the expert; default 1.
        svc: alpha of the calibration of singular values (:mod:`lors.linalg.calibration`) of the
            pruned matrices, for a method that is a sum; by default there is no calibration.
        boost: beta of subspace boosting: small singular values of the merged delta of each pruned
            matrix are raised (:mod:`lors.linalg.calibration`); for every method. By default none.
        lines: alpha and beta of LiNeS (Wang, Dimitriadis, Favero, Ortiz-Jimenez, Fleuret, Frossard,
            "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
            ICLR 2025, arXiv 2410.17146): the merged delta of layer l of the L layers of its stack
            is multiplied by alpha + beta l / (L - 1), that of a tensor outside the layers by alpha;
            for every method. Encoder and decoder are two stacks, named by the policy. By default
            nothing is multiplied.
        masks: file of masks of languages (:mod:`lors.checkpoint.masks`). Each task vector is
            restricted to the mask of its expert's language, and entries inside several masks are
            shared (:mod:`lors.merge.shares`): with the method task_arithmetic and scaling_coef 1
            they are averaged. For every method. By default there are no masks.
        langs: the language of each expert, with `masks`.
        onto: merged model to which the delta is added, in place of the base model. This adds
            experts to the merged model, or removes experts by negative weights, and needs none of
            the other experts in it. Only for a method that is a sum.

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
    boost: Annotated[float, Range(0, 1)] | None = None
    lines: tuple[Annotated[float, FLOAT32], ...] | None = None
    masks: str | None = None
    langs: tuple[str, ...] = ()
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
        object.__setattr__(self, "weights", self.weights or (1.0,) * len(self.experts))
        if len(self.weights) != len(self.experts):
            raise UsageError(
                "the number of weights is not the number of experts",
                where="weights",
                expected=f"{len(self.experts)} numbers",
                got=" ".join(f"{weight:g}" for weight in self.weights),
            )
        if self.lines is not None and len(self.lines) != 2:
            raise UsageError(
                "LiNeS takes two numbers",
                where="lines",
                expected="alpha and beta",
                got=" ".join(f"{number:g}" for number in self.lines),
            )
        self._check_masks()
        for option in ("svc", "onto"):
            if getattr(self, option) is not None and not self.merge_method.is_sum:
                sums = [name for name in METHODS if METHODS[name].is_sum]
                raise UsageError(
                    f"{option} needs a method that is a sum over experts",
                    where=f"the merge method {self.method}",
                    expected=f"one of: {', '.join(sums)}",
                )

    def _check_masks(self) -> None:
        """Check that there is a language for each expert, if there are masks."""
        if len(self.langs) != (0 if self.masks is None else len(self.experts)):
            raise UsageError(
                "masks need the language of every expert",
                where="langs",
                expected="none without masks" if self.masks is None else f"{len(self.experts)}",
                got=" ".join(self.langs) or "none",
            )
        if self.masks is not None and self.onto is not None:
            raise UsageError(
                "shared entries depend on all experts, so none can be added to a merged model",
                where="masks and onto",
                hint="merge all experts at once",
            )

    @property
    def merge_method(self) -> MergeMethod:
        return method_called(self.method)

    @property
    def scaling_coef(self) -> float:
        return self.params["scaling_coef"]

    @property
    def method_params(self) -> dict[str, Any]:
        """The parameters of the method, without scaling_coef."""
        return {name: value for name, value in self.params.items() if name != "scaling_coef"}

    @property
    def plain_params(self) -> dict[str, Any]:
        """The parameters of the method as plain data, without scaling_coef."""
        params = dataclasses.asdict(self)["params"]
        return {name: value for name, value in params.items() if name != "scaling_coef"}

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else getattr(torch, self.dtype)


@dataclass(frozen=True)
class MergeInputs:
    """The open files of a plan; plans with the same models and policy share them.

    Args:
        base: the base model.
        vectors: the task vectors of the experts.
        policy: the policy of the plan.
        actions: name of a tensor of the base model -> action of the policy.
        onto: the model to which the delta is added: the base model, or the plan's `onto`.
    """

    base: Checkpoint
    vectors: tuple[TaskVector, ...]
    policy: Policy
    actions: dict[str, Action]
    onto: Checkpoint

    @property
    def experts(self) -> list[Checkpoint]:
        return [vector.finetuned for vector in self.vectors]

    def names(self, action: Action) -> list[str]:
        """Return the names of the tensors with this action, in the order of the base model."""
        return [name for name, chosen in self.actions.items() if chosen == action]

    def models(self) -> list[Checkpoint]:
        """Return the base model, the experts, and `onto` if it is another model than the base."""
        onto = [] if self.onto is self.base else [self.onto]
        return [self.base, *self.experts, *onto]

    def files(self) -> set[Path]:
        """Return all files of the models, with symbolic links resolved."""
        return {file.resolve() for model in self.models() for file in model.files()}


def open_inputs(plan: MergePlan, opened: MergeInputs | None = None) -> MergeInputs:
    """Open the files of a plan and check that they can be merged with its method.

    Args:
        plan: the plan.
        opened: the open files of another plan with the same models and policy, to use again.

    Raises:
        UsageError: a language of the plan without a mask.
        LorsError: a file cannot be read; the masks belong to another base model; a model has
            masks of its own, which would be lost; an expert has another vocabulary or structure
            than the base model; no policy fits; two models hold the same weights; or the method,
            svc or boost is for matrices and the policy prunes none.
    """
    inputs = opened or _open_models(plan)
    users = [option for option in ("svc", "boost") if getattr(plan, option) is not None]
    if plan.merge_method.applies_to == "matrices":
        users.insert(0, f"the merge method {plan.method}")
    if users and not inputs.names("prune"):
        raise LorsError(
            f"{users[0]} is for pruned matrices, but the policy prunes none",
            where=f"the policy {plan.policy or inputs.policy.name} on {plan.base}",
            expected="one or more tensors to prune",
            hint="leave --policy out, so that it is found from the names of the tensors, or write "
            "one for this model",
        )
    shares_of(plan, inputs)
    return inputs


def shares_of(plan: MergePlan, inputs: MergeInputs) -> Shares | None:
    """Return the shares of the experts in the plan's masks; None without masks.

    Raises:
        UsageError: a language without a mask.
        LorsError: the masks belong to another base model, or are damaged.
    """
    return None if plan.masks is None else Shares(inputs.base, plan.masks, plan.langs)


def _open_models(plan: MergePlan) -> MergeInputs:
    check_same_vocabulary(*map(local_path, (plan.base, *plan.experts)))
    base = open_model(plan.base)
    vectors = tuple(TaskVector(base, open_expert(base, path)) for path in plan.experts)
    if plan.policy is None:
        policy = find_policy(base.names(), where=plan.base)
    else:
        policy = load_policy(plan.policy)
    onto = base
    if plan.onto is not None:
        onto = TaskVector(base, open_expert(base, plan.onto)).finetuned
    inputs = MergeInputs(base, vectors, policy, policy.actions(base.spec()), onto)
    for model in (base, onto, *inputs.experts):
        for file in model.files():  # not inputs.files(): masks lie beside a link, not its target
            check_unmasked(file)
    _check_distinct(inputs)
    _warn_of_strangers(inputs)
    return inputs


def _check_distinct(inputs: MergeInputs) -> None:
    """Check by their values that the base model, `onto` and the experts are different models.

    Different models differ in one of their first tensors, so hardly anything is read.

    Raises:
        LorsError: two of the models hold the same weights; all such experts are listed.
    """
    known = [(inputs.base, f"the base model {inputs.base.path}")]
    models = [(expert, "the expert") for expert in inputs.experts]
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
            got=problems,
            hint="give the base model and each expert once; --onto is a merge of other experts",
        )


def _warn_of_strangers(inputs: MergeInputs) -> None:
    """Warn of experts whose task vector is larger than the base model itself.

    Independent models of one structure differ by about 1.4 times their norm; fine-tuning changes
    a small part. A sample of the matrices is enough, because a stranger differs in all of them.
    """
    names = inputs.names("prune") or inputs.names("whole")
    names = names[:: -(-len(names) // SAMPLED)] if names else []
    whole = math.hypot(*(float(inputs.base.tensor(name).float().norm()) for name in names))
    for vector in inputs.vectors:
        change = math.hypot(*(float(vector.delta(name).norm()) for name in names))
        if change > whole > 0:
            logging.warning(
                "%s is further from the base model than the base model is from zero (%.2f times): "
                "was it fine-tuned from %s, or from another model of the same structure?",
                *(vector.finetuned.path, change / whole, inputs.base.path),
            )


def _same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    # Matrices first: all experts may have the same values in some biases and counters.
    names = sorted(one.names(), key=lambda name: -len(one.shape(name)))
    return all(torch.equal(one.tensor(name), other.tensor(name)) for name in names)
