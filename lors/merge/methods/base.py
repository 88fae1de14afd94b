"""Merge methods: pure functions from the task vectors of one tensor to their merged delta.

A method is of one of two kinds. A *sum* adds what each expert contributes by itself, so it is a
function of one expert's task vector; such methods need little memory, can be calibrated (see
:mod:`lors.linalg.calibration`) and let an expert be added to a merged model without the others::

    @sum_method(scope="every")
    def my_sum(delta: Tensor, *, strength: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
        '''One line for --list_methods.

        Args:
            delta: task vector of one tensor of one expert, float32.
            strength: what it does.
        '''

A *joint* method looks at all task vectors of a tensor together::

    @joint_method(combines="mean", scope="every")
    def my_merge(deltas: Sequence[Tensor], *, strength: float = 0.5) -> Tensor: ...

To add a method, add one file to this directory. The keyword-only arguments are its parameters;
their annotations, defaults and docstring are all that is needed to check and describe them. The
names in ``SUPPLIED`` are not parameters: a method that has such an argument is given the value for
each tensor. Arguments are never modified. `deltas` may be read from disk again at every access, so
a method goes through it as seldom as it can and keeps as little of it as it can.

A method with the scope "matrices" is called for the matrices that the policy marks for pruning, as
two-dimensional tensors (a convolution as out x (in * width)); of all other tensors the task vectors
are summed, or averaged if it is a joint method. The merged model is
``base + scaling_coef * delta``, computed by :mod:`lors.merge.run`.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from lors.config import FLOAT32, REQUIRED, Key, check
from lors.errors import unknown_name
from lors.linalg.combine import mean_of, sum_of

SUPPLIED = {
    "low_rank": "finds the low-rank part of this task vector: of an adapter without decomposing "
    "it, or with a decomposition that was kept (sum)",
    "pooled": "the threshold over all matrices of this expert, if the method pools them (sum)",
    "surveyed": "what the method's survey says of the task vector, or of each (joint)",
    "start": "index of the first entry, in row-major order, if only some rows are given",
    "random": "a numpy generator of this tensor and expert (for a sum)",
    "random_of": "makes the numpy generator of this tensor and the expert with an index (joint)",
}


@dataclass(frozen=True)
class MergeMethod:
    """A merge function with what can be read from its signature and docstring.

    Args:
        function: the pure function.
        per_expert: whether it is a sum, a function of one expert's task vector.
        combines: whether its delta grows with the number of experts ("sum") or not ("mean").
            The default scaling_coef is 1/N for a sum of N experts (0.2 for the five of the
            LoRS-Merging authors) and 1 for a mean, so that both start from the same size.
        scope: "matrices" for a method of the matrices to prune, else "every" tensor.
        rowwise: whether a row of the merged delta depends on the same row of the task vectors
            only, and on what the survey says, so that a large tensor may be merged in pieces. A
            vector is one row.
        survey: what a rowwise method must know of each whole task vector: a function of it and of
            the method's parameters.
        pool: makes the magnitudes of a matrix that share one threshold with all other matrices of
            the expert if the parameter `threshold` is "global": the fraction `density` of them is
            at least the threshold. A function of the task vector, ``low_rank`` and the parameters.
        stacks: says of the parameters whether the function (of a method of matrices that is a sum)
            also takes a stack of task vectors of one shape, on any device.
    """

    function: Callable[..., Tensor]
    per_expert: bool
    combines: Literal["sum", "mean"]
    scope: Literal["every", "matrices"]
    rowwise: bool
    survey: Callable[..., Any] | None = None
    pool: Callable[..., Tensor] | None = None
    stacks: Callable[..., bool] | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def parameters(self) -> dict[str, Key]:
        """Type and default of each parameter of the method itself (not scaling_coef)."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        keys = {}
        for name, argument in inspect.signature(self.function).parameters.items():
            if argument.kind is argument.KEYWORD_ONLY and name not in SUPPLIED:
                required = argument.default is argument.empty
                keys[name] = Key(hints[name], REQUIRED if required else argument.default)
        return keys

    def help(self, parameter: str) -> str:
        """What the docstring says about a parameter."""
        text = inspect.getdoc(self.function) or ""
        found = re.search(rf"^ {{4}}{parameter}: (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)
        return " ".join(found[1].split()) if found else ""

    def resolve(self, params: Mapping[str, Any], num_experts: int, where: object) -> dict[str, Any]:
        """All parameters, scaling_coef included: checked, and completed with the defaults.

        Raises:
            UsageError: an unknown parameter, a wrong type or a value out of range; all listed.
        """
        scaling_coef = 1 / num_experts if self.combines == "sum" else 1.0
        keys = {**self.parameters, "scaling_coef": Key(Annotated[float, FLOAT32], scaling_coef)}
        return check(keys, params, where)

    def is_rowwise(self, prune: bool) -> bool:
        """Whether a tensor, to prune or not, may be merged in pieces."""
        return self.rowwise or (self.scope == "matrices" and not prune)

    @property
    def decomposes(self) -> bool:
        """Whether it makes decompositions that can be kept."""
        return "low_rank" in self._accepted

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers: others for another place in the list of experts."""
        return not self._accepted.isdisjoint(("random", "random_of"))

    def surveys(self, deltas: Iterable[Tensor], params: Mapping[str, Any]) -> list[Any]:
        """What the survey says of each task vector; nothing for a method without one."""
        if self.survey is None:
            return [None for _ in deltas]
        own = self._own(params)
        return [self.survey(delta, **own) for delta in deltas]

    def pools(self, params: Mapping[str, Any]) -> bool:
        """Whether the matrices of an expert share a threshold."""
        return self.pool is not None and params["threshold"] == "global"

    def pooled(
        self, delta: Tensor, params: Mapping[str, Any], low_rank: Callable[..., Any]
    ) -> Tensor:
        """The magnitudes of a matrix that share one threshold with those of others."""
        return self.pool(self._seen(delta), low_rank=low_rank, **self._own(params))

    @staticmethod
    def _own(params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in params.items() if name != "scaling_coef"}

    def takes_stacks(self, params: Mapping[str, Any]) -> bool:
        """Whether :meth:`parts_of_stack` works with these parameters."""
        return self.stacks is not None and self.stacks(**self._own(params))

    def parts_of_stack(self, stack: Tensor, params: Mapping[str, Any]) -> Tensor:
        """What each task vector of a stack (n x rows x columns) contributes to a sum."""
        return self.function(stack, **self._own(params))

    def part(
        self, delta: Tensor, index: int, params: Mapping[str, Any], supplied: Mapping[str, Any]
    ) -> Tensor:
        """What the expert `index` contributes to a sum; TypeError for a joint method."""
        if not self.per_expert:
            raise TypeError(f"{self.name} is not a sum over experts")
        if self.scope == "matrices" and not supplied["prune"]:
            return delta
        surveyed = supplied.get("surveyed") or {index: self.surveys([delta], params)[0]}
        own = {
            name: supplied[f"{name}_of"](index)
            for name in ("random", "low_rank", "pooled")
            if f"{name}_of" in supplied
        }
        arguments = self._arguments(params, supplied, surveyed=surveyed[index], **own)
        return self.function(self._seen(delta), **arguments).reshape(delta.shape)

    def __call__(
        self, deltas: Sequence[Tensor], params: Mapping[str, Any], supplied: Mapping[str, Any]
    ) -> Tensor:
        """The merged delta of one tensor, before scaling_coef.

        Args:
            deltas: one float32 tensor of one shape for each expert: of a rowwise method, rows of
                the whole.
            params: as :meth:`resolve` returns them.
            supplied: ``prune``, whether the policy marks this tensor for pruning, and what
                ``SUPPLIED`` lists, as far as there is such a thing (for a sum as functions of the
                index of the expert: ``random_of``, ``low_rank_of``, ``pooled_of``); ``start`` and
                ``surveyed`` are for rows only.
        """
        if self.per_expert:
            parts = (
                self.part(deltas[index], index, params, supplied) for index in range(len(deltas))
            )
            return sum_of(parts)
        if self.scope == "matrices" and not supplied["prune"]:
            return mean_of(deltas)
        surveyed = supplied.get("surveyed")
        if surveyed is None and self.survey is not None:
            surveyed = self.surveys(deltas, params)
        seen = [self._seen(delta) for delta in deltas] if self.scope == "matrices" else deltas
        arguments = self._arguments(params, supplied, surveyed=surveyed)
        return self.function(seen, **arguments).reshape(deltas[0].shape)

    def _seen(self, delta: Tensor) -> Tensor:
        """A task vector as the function takes it."""
        return delta.reshape(delta.shape[0], -1) if self.scope == "matrices" else delta

    def _arguments(self, *sources: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"start": 0}
        for source in (*sources, more):
            given.update(source)
        return {name: value for name, value in given.items() if name in self._accepted}

    @functools.cached_property
    def _accepted(self) -> frozenset[str]:
        """The names of the function's arguments: asked for with every piece of a tensor."""
        return frozenset(inspect.signature(self.function).parameters)


METHODS: dict[str, MergeMethod] = {}
"""All merge methods by name; :mod:`lors.merge.methods` enters them when it is imported."""


def method_called(name: str) -> MergeMethod:
    """The merge method of a name.

    Raises:
        UsageError: there is none; near matches and all the names are listed.
    """
    if name not in METHODS:
        raise unknown_name("merge method", name, METHODS)
    return METHODS[name]


def sum_method(
    *,
    scope: Literal["every", "matrices"],
    rowwise: bool = False,
    survey: Callable[..., Any] | None = None,
    pool: Callable[..., Tensor] | None = None,
    stacks: Callable[..., bool] | None = None,
) -> Callable:
    """Decorator: enters a function of one expert's task vector in ``METHODS`` under its name."""
    properties = {"scope": scope, "rowwise": rowwise, "survey": survey}
    return _entered(per_expert=True, combines="sum", pool=pool, stacks=stacks, **properties)


def joint_method(
    *,
    combines: Literal["sum", "mean"],
    scope: Literal["every", "matrices"],
    rowwise: bool = False,
    survey: Callable[..., Any] | None = None,
) -> Callable:
    """Decorator: enters a function of all task vectors in ``METHODS`` under its name."""
    return _entered(
        per_expert=False, combines=combines, scope=scope, rowwise=rowwise, survey=survey
    )


def _entered(**properties: Any) -> Callable:
    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = function.__name__
        if name in METHODS:
            raise ValueError(f"two merge methods are called {name}")
        METHODS[name] = MergeMethod(function, **properties)
        return function

    return enter
