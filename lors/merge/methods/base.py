"""How to write a merge method.

A merge method is one function, in a separate file in this directory. The function is the formula:
it returns the merged delta of one tensor, and it never changes its arguments. A decorator enters
the function in ``METHODS`` under its name. Add ``conf/merge_<name>.yaml`` too; the contract tests
then test the method without further edits.

**Sum or joint.** If the merged delta is a sum with one term for each expert, write the term, a
function of one task vector::

    @sum_method(applies_to="every")
    def my_sum(delta: Tensor, *, strength: Annotated[float, Range(0, 1)] = 0.5) -> Tensor:
        '''One line for --list_methods.

        Args:
            delta: task vector of one tensor of one expert, float32.
            strength: the help text of this parameter.
        '''

A sum needs little memory; it can be calibrated (``--svc``) and added to a merged model
(``--onto``). If the formula needs all task vectors of a tensor together, write a joint method::

    @joint_method(combines="mean", applies_to="every")
    def my_merge(deltas: Sequence[Tensor], *, strength: float = 0.5) -> Tensor: ...

An access to ``deltas[i]`` may read a file. So go through `deltas` as few times as possible, and
keep as few of them in memory as possible.

**Parameters.** The keyword-only arguments are the parameters of ``--params``. The annotation gives
the type and the range, the docstring gives the help. ``scaling_coef`` is not among them: the engine
computes ``base + scaling_coef * delta``.

**Tensors.** With ``applies_to="every"`` the formula gets all tensors that are merged, in their own
shapes. With ``applies_to="matrices"`` it gets the tensors that the policy prunes, as matrices (a
convolution as out x (in * width)); the task vectors of the other tensors are summed for a sum, and
averaged for a joint method.

**Arguments from the engine.** A keyword-only argument with one of these names is not a parameter;
the engine fills it from a :class:`TensorContext`:

- for a sum: ``random``, ``low_rank``, ``global_threshold``, ``stats``, ``start``;
- for a joint method: ``random_of``, ``low_rank_of``, ``stats``, ``start``.

**Speed.** An optional :class:`Execution` tells the engine how it may run the formula in less time
or memory. A method is complete without it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from torch import Tensor

from lors.config import FLOAT32, REQUIRED, Key, check
from lors.errors import unknown_name
from lors.linalg.combine import mean_of, sum_of
from lors.linalg.low_rank import LowRank, low_rank_factors

AppliesTo = Literal["every", "matrices"]
SUPPLIED = frozenset(
    {"random", "random_of", "low_rank", "low_rank_of", "global_threshold", "stats", "start"}
)
"""Names of the arguments that the engine fills; they cannot be parameters."""


@dataclass(frozen=True)
class Execution:
    """How the engine may run a formula in less time or memory.

    The merged model is the same without it, except for rounding on a device. Only
    `global_magnitudes` adds something: without it a formula gets no global threshold.

    Args:
        rowwise: a row of the merged delta depends only on the same row of the task vectors, and on
            `stats`. Then a large tensor is merged some rows at a time. A vector is one row.
        stats: function ``(delta, **params)`` that returns the facts about the whole task vector
            that a rowwise formula needs, e.g. a threshold. The argument ``stats`` of the formula is
            this value for a sum, and the list of the values of all experts for a joint method.
        global_magnitudes: function ``(delta, *, low_rank, **params)`` that returns magnitudes; for
            a sum with the parameters ``threshold`` and ``density``. If ``threshold`` is "global",
            the argument ``global_threshold`` of the formula is the threshold that keeps the
            fraction ``density`` of these magnitudes, over all pruned matrices of the expert; else
            it is None.
        stacks: function ``(**params)`` that returns whether, for these parameters, the formula of a
            sum also takes a stack of task vectors (n x rows x columns) on any device.
    """

    rowwise: bool = False
    stats: Callable[..., Any] | None = None
    global_magnitudes: Callable[..., Tensor] | None = None
    stacks: Callable[..., bool] | None = None


PLAIN = Execution()
"""One tensor at a time: right for every formula."""


@dataclass(frozen=True)
class TensorContext:
    """The facts about one tensor that a formula may need beside the task vectors.

    Args:
        prune: whether the policy marks the tensor for pruning.
        random_of: index of an expert -> its random number generator for this tensor.
        low_rank_of: index of an expert -> function that finds the low-rank part of its task vector.
            An adapter needs no decomposition, and a kept decomposition is used if there is one.
        threshold_of: index of an expert -> its global threshold, or None.
        is_term: index of an expert -> whether its task vector is already the term of the method,
            because the method reduced it when the file of the task vector was made.
        stats: ``Execution.stats`` of each expert's task vector; None if the formula gets the whole
            tensor, from which they can be computed.
        start: row-major index of the first entry, if only some rows of the tensor are given.
    """

    prune: bool
    random_of: Callable[[int], np.random.Generator]
    low_rank_of: Callable[[int], LowRank] = lambda index: low_rank_factors
    threshold_of: Callable[[int], float | None] = lambda index: None
    is_term: Callable[[int], bool] = lambda index: False
    stats: Sequence[Any] | None = None
    start: int = 0


@dataclass(frozen=True)
class MergeMethod:
    """A formula with its description, which is read from its signature and docstring.

    Args:
        function: the formula.
        is_sum: whether the formula gives the term of one expert, and the delta is their sum.
        combines: whether the delta grows with the number of experts ("sum") or not ("mean"). The
            default scaling_coef is 1/N for a "sum" of N experts (0.2 for the five experts of the
            LoRS-Merging authors) and 1 for a "mean", so that both have the same size.
        applies_to: "matrices" if the formula is for the tensors to prune only, else "every".
        execution: how the engine may run the formula.
    """

    function: Callable[..., Tensor]
    is_sum: bool
    combines: Literal["sum", "mean"]
    applies_to: AppliesTo
    execution: Execution = PLAIN

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def parameters(self) -> dict[str, Key]:
        """Type and default of each parameter, without scaling_coef."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        keys = {}
        for name, argument in inspect.signature(self.function).parameters.items():
            if argument.kind is argument.KEYWORD_ONLY and name not in SUPPLIED:
                required = argument.default is argument.empty
                keys[name] = Key(hints[name], REQUIRED if required else argument.default)
        return keys

    @property
    def defaults(self) -> dict[str, Any]:
        """Default of each parameter that has one, as plain data, without scaling_coef."""
        given = {name: key.default for name, key in self.parameters.items()}
        return {name: _plain(value) for name, value in given.items() if value is not REQUIRED}

    def help(self, parameter: str) -> str:
        """Return the text about a parameter in the docstring."""
        text = inspect.getdoc(self.function) or ""
        found = re.search(rf"^ {{4}}{parameter}: (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)
        return " ".join(found[1].split()) if found else ""

    def resolve(self, params: Mapping[str, Any], num_experts: int, where: object) -> dict[str, Any]:
        """Check parameters and complete them with the defaults; scaling_coef is included.

        Raises:
            UsageError: an unknown parameter, a wrong type or a value out of range; all listed.
        """
        scaling_coef = 1 / num_experts if self.combines == "sum" else 1.0
        keys = {**self.parameters, "scaling_coef": Key(Annotated[float, FLOAT32], scaling_coef)}
        return check(keys, params, where)

    @functools.cached_property
    def supplied(self) -> frozenset[str]:
        """Names of the arguments that the engine fills."""
        return SUPPLIED & set(inspect.signature(self.function).parameters)

    @property
    def decomposes(self) -> bool:
        """Whether the method makes decompositions that can be kept."""
        return not self.supplied.isdisjoint(("low_rank", "low_rank_of"))

    @property
    def draws(self) -> bool:
        """Whether an expert's random numbers depend on its place in the list of experts."""
        return not self.supplied.isdisjoint(("random", "random_of"))

    def merge(
        self, deltas: Sequence[Tensor], params: Mapping[str, Any], context: TensorContext
    ) -> Tensor:
        """Return the merged delta of one tensor, before scaling_coef.

        Args:
            deltas: one float32 tensor of one shape for each expert: the weighted task vectors, or
                the same rows of them.
            params: all parameters of the method, without scaling_coef.
            context: the facts about this tensor.
        """
        if self.is_sum:
            indices = range(len(deltas))
            return sum_of(self.term(deltas[index], index, params, context) for index in indices)
        given = deltas
        if self.applies_to == "matrices":
            if not context.prune:
                return mean_of(deltas)
            given = [_as_matrix(delta) for delta in deltas]
        stats = context.stats
        if stats is None and "stats" in self.supplied:
            stats = [self._stats(delta, params) for delta in given]
        available = {
            "random_of": context.random_of,
            "low_rank_of": context.low_rank_of,
            "stats": stats,
            "start": context.start,
        }
        supplied = {name: available[name] for name in self.supplied}
        return self.function(given, **params, **supplied).reshape(deltas[0].shape)

    def term(
        self, delta: Tensor, index: int, params: Mapping[str, Any], context: TensorContext
    ) -> Tensor:
        """Return the term of the expert `index` in a sum; TypeError for a joint method."""
        if not self.is_sum:
            raise TypeError(f"{self.name} is not a sum over experts")
        if context.is_term(index) or (self.applies_to == "matrices" and not context.prune):
            return delta

        def stats() -> Any:
            if context.stats is not None:
                return context.stats[index]
            return self._stats(delta, params)

        available = {
            "random": lambda: context.random_of(index),
            "low_rank": lambda: context.low_rank_of(index),
            "global_threshold": lambda: context.threshold_of(index),
            "stats": stats,
            "start": lambda: context.start,
        }
        supplied = {name: available[name]() for name in self.supplied}
        given = _as_matrix(delta) if self.applies_to == "matrices" else delta
        return self.function(given, **params, **supplied).reshape(delta.shape)

    def _stats(self, delta: Tensor, params: Mapping[str, Any]) -> Any:
        """Return the facts about a whole task vector that the formula needs."""
        if self.execution.stats is None:
            raise TypeError(f"{self.name} has the argument stats, but no Execution(stats=...)")
        return self.execution.stats(delta, **params)


def _plain(value: Any) -> Any:
    is_rule = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_rule else value


def _as_matrix(delta: Tensor) -> Tensor:
    """Return a tensor as a matrix; a convolution becomes out x (in * width)."""
    return delta.reshape(delta.shape[0], -1)


METHODS: dict[str, MergeMethod] = {}
"""All merge methods by name; the import of :mod:`lors.merge.methods` enters them."""


def method_called(name: str) -> MergeMethod:
    """Return the merge method with this name.

    Raises:
        UsageError: there is none; near matches and all names are listed.
    """
    if name not in METHODS:
        raise unknown_name("merge method", name, METHODS)
    return METHODS[name]


def sum_method(*, applies_to: AppliesTo, execution: Execution = PLAIN) -> Callable:
    """Return a decorator that enters a function of one task vector in ``METHODS``."""
    return _entered(is_sum=True, combines="sum", applies_to=applies_to, execution=execution)


def joint_method(
    *,
    combines: Literal["sum", "mean"],
    applies_to: AppliesTo,
    execution: Execution = PLAIN,
) -> Callable:
    """Return a decorator that enters a function of all task vectors in ``METHODS``."""
    return _entered(is_sum=False, combines=combines, applies_to=applies_to, execution=execution)


def _entered(**properties: Any) -> Callable:
    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = function.__name__
        if name in METHODS:
            raise ValueError(f"two merge methods are called {name}")
        METHODS[name] = MergeMethod(function, **properties)
        return function

    return enter
