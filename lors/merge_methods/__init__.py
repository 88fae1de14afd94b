"""Merge methods: pure functions from the task vectors of one tensor to their merged delta.

A method is of one of two kinds. A *sum* adds what each expert contributes by itself, so it is a
function of one expert's task vector; such methods need little memory, can be calibrated (see
:mod:`lors.calibration`) and let an expert be added to a merged model without the others::

    @sum_method
    def my_sum(delta: Tensor, *, strength: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
        '''One line for --list_methods.

        Args:
            delta: task vector of one tensor of one expert, float32.
            strength: what it does.
        '''

A *joint* method looks at all task vectors of a tensor together::

    @joint_method(combines="mean")
    def my_merge(deltas: Sequence[Tensor], *, strength: float = 0.5) -> Tensor: ...

To add a method, add one file to this directory. The keyword-only arguments are its parameters;
their annotations, defaults and docstring are all that is needed to check and describe them. The
names in ``SUPPLIED`` are not parameters: a method that has such an argument is given the value for
each tensor. Arguments are never modified. `deltas` may be read from disk again at every access, so
a method goes through it as seldom as it can and keeps as little of it as it can. The merged model
is ``base + scaling_coef * delta``, computed by :mod:`lors.merge`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from lors.config import REQUIRED, Key, Range, check
from lors.registry import Registry

SUPPLIED = {
    "prune": "whether the policy marks this tensor as a matrix to prune",
    "factors": "the two factors of this tensor's task vector if it is an adapter, or None (sum)",
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
    """

    function: Callable[..., Tensor]
    per_expert: bool
    combines: Literal["sum", "mean"]

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
        keys = {**self.parameters, "scaling_coef": Key(Annotated[float, Range()], scaling_coef)}
        return check(keys, params, where)

    def part(
        self, delta: Tensor, index: int, params: Mapping[str, Any], supplied: Mapping[str, Any]
    ) -> Tensor:
        """What the expert `index` contributes to a sum; TypeError for a joint method."""
        if not self.per_expert:
            raise TypeError(f"{self.name} is not a sum over experts")
        arguments = self._arguments(
            params,
            supplied,
            random=supplied["random_of"](index),
            factors=supplied["factors_of"](index),
        )
        return self.function(delta, **arguments)

    def __call__(
        self, deltas: Sequence[Tensor], params: Mapping[str, Any], supplied: Mapping[str, Any]
    ) -> Tensor:
        """The merged delta of one tensor, before scaling_coef.

        Args:
            deltas: one float32 tensor of one shape for each expert.
            params: as :meth:`resolve` returns them.
            supplied: ``prune``, ``random_of`` and, for a sum, ``factors_of``: see ``SUPPLIED``.
        """
        if not self.per_expert:
            return self.function(deltas, **self._arguments(params, supplied))
        total = None
        for index in range(len(deltas)):
            part = self.part(deltas[index], index, params, supplied)
            total = part.clone() if total is None else total.add_(part)
        return total

    def _arguments(self, *sources: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        accepted = inspect.signature(self.function).parameters
        given = {name: value for source in sources for name, value in source.items()} | more
        return {name: value for name, value in given.items() if name in accepted}


METHODS: Registry[MergeMethod] = Registry("merge method")


def sum_method(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: enters a function of one expert's task vector in ``METHODS`` under its name."""
    METHODS.add(function.__name__, MergeMethod(function, per_expert=True, combines="sum"))
    return function


def joint_method(*, combines: Literal["sum", "mean"]) -> Callable:
    """Decorator: enters a function of all task vectors in ``METHODS`` under its name."""

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        METHODS.add(function.__name__, MergeMethod(function, per_expert=False, combines=combines))
        return function

    return enter


# Last, because the files import the decorators from here.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
