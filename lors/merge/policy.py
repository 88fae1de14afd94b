"""Policies: which tensors of a model are pruned, merged whole or copied from the base model.

A policy is a YAML file with rules in order; the first rule with a pattern that matches the name of
a tensor decides. A policy in ``lors/merge/policies`` is chosen from the names of a model's tensors;
any other policy is given by its path.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lors.checkpoint.expert import WRAPPERS
from lors.config import load_config
from lors.errors import LorsError, UsageError, shortened, unknown_name

Action = Literal["prune", "whole", "copy"]
POLICY_DIR = Path(__file__).parent / "policies"
MOST_PATTERNS = 2000
"""Largest number of patterns in a policy: enough for one for each tensor of a large model."""


@dataclass(frozen=True)
class Rule:
    """The action for tensors whose name matches one of the patterns (``*`` matches any text)."""

    action: Action
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """The rules for one family of models.

    Args:
        family: the family of models, which is also the name of the policy.
        detect: patterns that recognise the family; each must match the name of some tensor.
        rules: the rules in order; the first that matches decides.
        stacks: one pattern for each stack of layers, for the tensors in its layers. The first
            number between dots in such a name is the number of the layer, counted from 0.
    """

    family: str
    detect: tuple[str, ...]
    rules: tuple[Rule, ...]
    stacks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.family

    def recognises(self, names: Iterable[str]) -> bool:
        """Return whether a model with these tensor names is of this family."""
        names = list(names)
        return all(any(_matches(pattern, name) for name in names) for pattern in self.detect)

    def actions(self, spec: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Action]:
        """Return the action for every tensor; empty tensors and integers are always copied.

        Args:
            spec: name -> shape and dtype.

        Raises:
            LorsError: no rule covers a tensor, or a tensor to prune is not a matrix; all listed.
        """
        actions: dict[str, Action] = {}
        problems = []
        for name, (shape, dtype) in spec.items():
            merged = dtype.is_floating_point and 0 not in shape
            action = self._action(name) if merged else "copy"
            if action is None:
                problems.append(f"{name}: no rule covers it")
                continue
            actions[name] = action
            if action == "prune" and len(shape) < 2:
                problems.append(f"{name}: cannot be pruned, its shape is {list(shape)}")
        if problems:
            raise LorsError(
                f"the policy '{self.name}' does not fit this model",
                got=shortened(problems, 50),
                hint="write a policy file like those in lors/merge/policies, give it with --policy",
            )
        return actions

    def depths(self, names: Iterable[str]) -> dict[str, float]:
        """Return the depth of each tensor in a stack: 0 in the first layer, 1 in the last.

        Tensors outside the stacks are left out. The only layer of a stack has depth 0.
        """
        names = list(names)
        depths: dict[str, float] = {}
        for pattern in self.stacks:
            found = {name: _layer_of(name) for name in names if _matches(pattern, name)}
            layers = {name: layer for name, layer in found.items() if layer is not None}
            last = max(layers.values(), default=0)
            depths |= {name: layer / last if last else 0.0 for name, layer in layers.items()}
        return depths

    def _action(self, name: str) -> Action | None:
        for rule in self.rules:
            if any(_matches(pattern, name) for pattern in rule.patterns):
                return rule.action
        return None


def _layer_of(name: str) -> int | None:
    """Return the first number between dots in the name of a tensor."""
    # A number with more digits is none of a layer.
    parts = (part for part in name.split(".") if part.isascii() and part.isdigit())
    return next((int(part) for part in parts if len(part) <= 6), None)


def _matches(pattern: str, name: str) -> bool:
    # Only `*` is special: names of tensors may contain [ and ?. Each text between two stars is
    # taken where it occurs first, so that no place is tried again.
    if "*" not in pattern:
        return name == pattern
    first, middle, last = _texts(pattern)
    if not name.startswith(first):
        return False
    place = len(first)
    for text in middle:
        place = name.find(text, place)
        if place < 0:
            return False
        place += len(text)
    return name.endswith(last) and len(name) - len(last) >= place


@functools.cache
def _texts(pattern: str) -> tuple[str, tuple[str, ...], str]:
    """Return the texts before, between and behind the stars of a pattern."""
    first, *middle, last = pattern.split("*")
    return first, tuple(text for text in middle if text), last


def policy_names() -> list[str]:
    """Return the names of the policies in ``lors/merge/policies``."""
    return sorted(path.stem for path in POLICY_DIR.glob("*.yaml"))


def load_policy(name_or_path: str) -> Policy:
    """Return the policy of a name, or of a file whose path ends in .yaml.

    Raises:
        UsageError: there is no policy of this name, or the file is not a policy, or has more than
            `MOST_PATTERNS` patterns.
        LorsError: there is no such file.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        policy = load_config(Policy, name_or_path)
        number = len(policy.detect) + sum(len(rule.patterns) for rule in policy.rules)
        if number > MOST_PATTERNS:
            raise UsageError(
                "too many patterns in this policy",
                where=name_or_path,
                expected=f"at most {MOST_PATTERNS}",
                got=number,
                hint="write patterns that match more names: * stands for any text",
            )
        return policy
    if name_or_path not in policy_names():
        raise unknown_name("policy", name_or_path, policy_names(), "--policy")
    return load_config(Policy, POLICY_DIR / f"{name_or_path}.yaml")


def find_policy(names: Iterable[str], where: object) -> Policy:
    """Return the one policy that recognises a model by the names of its tensors.

    Args:
        names: names of the tensors.
        where: the model, for the error.

    Raises:
        LorsError: no policy recognises the model, or more than one does.
    """
    names = list(names)
    policies = [load_policy(name) for name in policy_names()]
    found = [policy for policy in policies if policy.recognises(names)]
    if len(found) == 1:
        return found[0]
    raise LorsError(
        "the names of the tensors do not tell the family of this model",
        where=where,
        expected=f"exactly one of: {', '.join(policy_names())}",
        got=f"{', '.join(policy.name for policy in found) or 'none'}; "
        f"the first names are {', '.join(names[:3])}",
        hint=_prefix_hint(names, policies)
        or "name a policy with --policy NAME, or write a policy file and give its path",
    )


def _prefix_hint(names: list[str], policies: Iterable[Policy]) -> str | None:
    """Return the next step for a model whose names a policy knows with another prefix."""
    for prefix, wrapper in WRAPPERS.items():
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        outer = [f"{prefix}{name}" for name in names]
        for policy in policies:
            if len(inner) == len(names) and policy.recognises(inner):
                return (
                    f"all names begin with '{prefix}', {wrapper}: save the state dict of the model "
                    "inside the wrapper"
                )
            if policy.recognises(outer):
                return (
                    f"the names lack '{prefix}', {wrapper}: save the model again as a whole, for "
                    "example WhisperForConditionalGeneration instead of WhisperModel"
                )
    return None
