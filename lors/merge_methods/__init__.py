"""Merge methods: pure functions from the task vectors of one tensor to their merged delta.

To add a method, add one file to this directory with a function of the form::

    @merge_method(combines="sum")
    def my_method(deltas: Sequence[Tensor], *, strength: Annotated[float, Range(0, 1)] = 0.5):
        '''One line for --list_methods.

        Args:
            deltas: task vectors of one tensor, one for each expert, float32, all of one shape.
            strength: what it does.
        '''

The keyword-only arguments are the method's parameters; their annotations, defaults and docstring
are all that is needed to check and describe them. The names in ``SUPPLIED`` are not parameters:
a method that has such an argument is given the value for each tensor. Arguments are never
modified. The merged model is ``base + scaling_coef * delta``, computed by :mod:`lors.merge`.
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

SUPPLIED = {"prune": "whether the policy marks this tensor as a matrix to prune"}


@dataclass(frozen=True)
class MergeMethod:
    """A merge function with what can be read from its signature and docstring.

    Args:
        function: the pure function.
        combines: whether its delta grows with the number of experts ("sum") or not ("mean").
            The default scaling_coef is 1/N for a sum of N experts (0.2 for the five of the
            LoRS-Merging authors) and 1 for a mean, so that both start from the same size.
    """

    function: Callable[..., Tensor]
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

    def __call__(
        self, deltas: Sequence[Tensor], params: Mapping[str, Any], supplied: Mapping[str, Any]
    ) -> Tensor:
        """The merged delta of one tensor, before scaling_coef.

        Args:
            deltas: one float32 tensor of one shape for each expert.
            params: as :meth:`resolve` returns them.
            supplied: a value for each name in ``SUPPLIED``.
        """
        arguments = {**params, **supplied}
        accepted = inspect.signature(self.function).parameters
        return self.function(
            deltas, **{name: value for name, value in arguments.items() if name in accepted}
        )


METHODS: Registry[MergeMethod] = Registry("merge method")


def merge_method(*, combines: Literal["sum", "mean"]) -> Callable:
    """Decorator that enters a function in ``METHODS`` under its own name (see the module)."""

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        METHODS.add(function.__name__, MergeMethod(function, combines))
        return function

    return enter


# Last, because the files import the decorator from here.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
