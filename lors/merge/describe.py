"""Descriptions for the terminal: the merge methods, and a plan."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from lors.checkpoint.writer import size_of
from lors.config import describe
from lors.merge.methods import METHODS, MergeMethod
from lors.merge.plan import MergeInputs, MergePlan
from lors.merge.target import merged_spec


def describe_methods() -> str:
    """Return the description of every method and its parameters."""
    lines = [line for method in METHODS.values() for line in _method_lines(method)]
    lines.append("merged model = base + scaling_coef * (result of the method for the task vectors)")
    return "\n".join(lines)


def _method_lines(method: MergeMethod) -> list[str]:
    lines = [method.name, f"  {method.summary}"]
    for parameter, key in method.parameters.items():
        known = method.defaults
        default = f"default {value_text(known[parameter])}" if parameter in known else "required"
        lines.append(f"    {parameter} ({describe(key.annotation)}; {default})")
        lines.append(f"        {method.help(parameter)}")
    default = "1/number of experts" if method.combines == "sum" else "1"
    return [*lines, f"    scaling_coef (a number; default {default})", ""]


def describe_plan(plan: MergePlan, inputs: MergeInputs) -> str:
    """Return the resolved plan, and the number of tensors by the action of the policy."""
    lines = [f"base      {plan.base}"]
    lines += [f"expert    {expert}" for expert in plan.experts]
    if set(plan.weights) != {1.0}:
        lines.append("weights   " + " ".join(f"{weight:g}" for weight in plan.weights))
    if plan.onto is not None:
        lines.append(f"onto      {plan.onto}")
    lines.append(f"method    {plan.method}: {_assignments(plan)}")
    if plan.svc is not None:
        lines.append(f"svc       alpha={plan.svc:g}")
    if plan.boost is not None:
        lines.append(f"boost     beta={plan.boost:g}")
    if plan.lines is not None:
        lines.append("lines     alpha={:g} beta={:g}".format(*plan.lines))
    if plan.masks is not None:
        lines.append(f"masks     {plan.masks}: {' '.join(plan.langs)}")
    lines += [f"policy    {inputs.policy.name}", ""]
    lines.append(f"{'action':8}{'tensors':>9}{'parameters':>13}{'MB':>10}")
    spec = merged_spec(plan, inputs)
    groups = {
        action: {name: spec[name] for name in inputs.names(action)}
        for action in ("prune", "whole", "copy")
    }
    for label, group in {**groups, "total": spec}.items():
        numel = sum(torch.Size(shape).numel() for shape, _ in group.values())
        lines.append(f"{label:8}{len(group):9}{numel:13}{size_of(group) / 1e6:10.1f}")
    return "\n".join(lines)


def _assignments(plan: MergePlan) -> str:
    params = dataclasses.asdict(plan)["params"]
    return " ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Any) -> str:
    """Return the value of a parameter as a user writes it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {value_text(item)}' for name, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
