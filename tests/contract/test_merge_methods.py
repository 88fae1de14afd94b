"""The contract of every merge method; a new file in lors/merge/methods is tested without edits."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lors.checkpoint.expert import open_expert, open_model
from lors.config import REQUIRED, load_config, read_yaml
from lors.errors import UsageError
from lors.merge import methods as merge_methods
from lors.merge.methods import METHODS
from lors.merge.methods.base import SUPPLIED, MergeMethod, TensorContext
from lors.merge.plan import MergePlan
from lors.merge.run import iter_merged
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, PRUNED, write_models
from tests.unit.small_experts import write_lora, write_vector

CONF = Path(__file__).parents[2] / "conf"
SHAPES = [(), (1,), (7,), (6, 9), (9, 6), (1, 4), (5, 3, 3)]


@dataclasses.dataclass(frozen=True)
class Variant(MergeMethod):
    """A method with parameters that make it compute something else than by default."""

    given: dict[str, Any] = dataclasses.field(default_factory=dict)

    def resolve(self, params, num_experts, where):
        return super().resolve({**self.given, **params}, num_experts, where)


OTHER_PARAMETERS = {
    "actmat": {"ridge": 0},
    "tact": {"ridge": 0, "density": 0.5},
    "lors_actmat": {"ridge": 0.05, "reduce": "both", "keep_norm": True},
    "cart": {"rank": 2},
    "ace": {"epsilon": 1e-6},
    "lors": {"order": "independent", "keep_norm": True},
}


@pytest.fixture(params=[*sorted(METHODS), *(f"{name}, other" for name in OTHER_PARAMETERS)])
def method(request):
    name, *other = request.param.split(", ")
    if not other:
        return METHODS[name]
    fields = {field.name for field in dataclasses.fields(MergeMethod)}
    values = {field: getattr(METHODS[name], field) for field in fields}
    return Variant(**values, given=OTHER_PARAMETERS[name])


def deltas_of(shape, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


# Methods without one of the general properties, and why.
RANDOM = {"dare_linear", "dare_ties", "della"}  # every expert draws its own mask
SHARE_THE_RANK = {"tsv_m", "boosted_tsv_m"}  # N copies get full_rank / N directions each
SUM_OF_MATRICES = {"iso_c", "iso_cts"}  # matrices grow with N, the averages of the others do not
ABSOLUTE_UNITS = {"wudi", "ace"}  # steps, or a ridge, that do not scale with the task vectors
OTHER_SCALE = SHARE_THE_RANK | SUM_OF_MATRICES | ABSOLUTE_UNITS


def context(shape, prune):
    return TensorContext(
        prune=prune and len(shape) >= 2,
        random_of=lambda index: np.random.default_rng([7, index]),
    )


def resolved(method, count, **params):
    params = method.resolve(params, count, "test")
    del params["scaling_coef"]
    return params


def apply(method, deltas, prune=True, **params):
    params = resolved(method, len(deltas), **params)
    return method.merge(deltas, params, context(deltas[0].shape, prune))


def test_all_files_are_registered():
    files = {path.stem for path in Path(merge_methods.__file__).parent.glob("*.py")}
    files -= {"__init__", "base"}
    modules = {METHODS[name].function.__module__.rsplit(".", 1)[1] for name in METHODS}
    assert modules == files and len(METHODS) >= len(files)


def test_signature_and_documentation(method):
    arguments = inspect.signature(method.function).parameters
    assert next(iter(arguments)) == ("delta" if method.is_sum else "deltas")
    for name, argument in list(arguments.items())[1:]:
        assert argument.kind is argument.KEYWORD_ONLY, name
        assert method.help(name), f"{method.name}: {name} is not documented"
    for name, key in method.parameters.items():
        for limits in getattr(key.annotation, "__metadata__", ()):
            assert str(limits) in method.help(name), f"{method.name}: the range of {name}"
    assert re.search(r"\b(19|20)\d\d\b|arXiv", method.function.__doc__), "no source is named"
    assert not set(method.parameters) & {*SUPPLIED, "scaling_coef"}
    assert json.loads(json.dumps(method.defaults)) == method.defaults
    assert method.summary.endswith(".") or ":" in method.summary
    assert 20 < len(method.summary) < 100


def test_there_is_a_configuration_that_fits(method):
    path = CONF / f"merge_{method.name}.yaml"
    values = read_yaml(path)
    plan = MergePlan(base="b", experts=("e",), method=values["method"], params=values["params"])
    assert values["method"] == method.name
    assert set(values["params"]) == {*method.parameters, "scaling_coef"} == set(plan.params)
    shown = {name: values["params"][name] for name in METHODS[method.name].defaults}
    assert shown == METHODS[method.name].defaults
    head = path.read_text().split("method:")[0]
    for part in ("# Prerequisite:", "# Launch:", f"--config conf/{path.name}", "--params"):
        assert part in head, f"{path}: {part} is missing"
    with refusal(path, "base", "experts", kind=UsageError):
        load_config(MergePlan, path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("prune", [True, False])
def test_result_and_purity(method, shape, count, prune):
    deltas = deltas_of(shape, count)
    before = [delta.clone() for delta in deltas]
    result = apply(method, deltas, prune)
    again = apply(method, deltas, prune)
    assert result.shape == torch.Size(shape) and result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert torch.equal(result, again)
    assert all(torch.equal(delta, old) for delta, old in zip(deltas, before, strict=True))


def test_takes_any_sequence(method):
    deltas = deltas_of((6, 9), 3)
    assert torch.equal(apply(method, tuple(deltas)), apply(method, deltas))


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_learnt_nothing_merged(method, shape):
    assert not apply(method, [torch.zeros(shape)] * 3).any()


@pytest.mark.parametrize("shape", [(7,), (6, 9)])
def test_order_of_the_experts_does_not_matter(method, shape):
    if method.name in RANDOM:
        pytest.skip("the masks go with the order")
    deltas = deltas_of(shape, 4)
    forward, backward = apply(method, deltas), apply(method, deltas[::-1])
    assert torch.allclose(forward, backward, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (6, 9)])
def test_scale_of_the_task_vectors_is_kept(method, shape):
    if method.name in ABSOLUTE_UNITS:
        pytest.skip("a parameter has absolute units")
    deltas = deltas_of(shape, 3)
    doubled = apply(method, [2 * delta for delta in deltas])
    assert torch.allclose(doubled, 2 * apply(method, deltas), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1e12])
def test_experts_of_very_different_norms(method, size):
    """The powers of numbers that occur are inside the range of the numbers that are computed with.

    A task vector of zeros and one of 1 stand beside a very small or a very large one.
    """
    first, second = deltas_of((6, 9), 2)
    for deltas in ([size * first, second, 0 * first], [first, 0 * first, size * second]):
        assert torch.isfinite(apply(method, deltas)).all()


def adapter_factors(shape, count, rank=4):
    generator = torch.Generator().manual_seed(5)
    return [
        tuple(
            torch.randn(side, generator=generator) for side in ((shape[0], rank), (rank, shape[1]))
        )
        for _ in range(count)
    ]


def product(up, down):
    return (up.double() @ down.double()).float()


def is_near(one, other, tolerance):
    return bool(torch.linalg.norm(one - other) <= tolerance * torch.linalg.norm(other))


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (40, 40)])
@pytest.mark.parametrize("without", [0, 1])
def test_low_rank_task_vectors(method, shape, without):
    """Arbitrary singular vectors of an adapter's task vector have no effect on the result.

    Args:
        without: number of further experts without a change in this matrix.
    """
    factors = adapter_factors(shape, 2)
    nothing = [torch.zeros(shape)] * without
    merged = apply(method, [product(*pair) for pair in factors] + nothing)
    other_factors = [product(up / 3, 3 * down) for up, down in factors]
    assert is_near(apply(method, other_factors + nothing), merged, 1e-5)
    # The same adapters in full models: base + delta is rounded to the next float32.
    base = 10 * deltas_of(shape, 1, seed=6)[0]
    full = [(base + product(*pair)) - base for pair in factors]
    assert is_near(apply(method, full + nothing), merged, 1e-4)


def test_the_same_adapter_twice(method):
    """Two factorisations of one adapter give the same up to rounding."""
    if method.name in RANDOM:
        pytest.skip("every expert draws its own mask")
    up, down = adapter_factors((48, 32), 1)[0]
    one, other = product(up, down), product(up / 3, 3 * down)
    assert is_near(apply(method, [one, other]), apply(method, [one, one]), 1e-5)


def test_experts_that_cancel(method):
    for count in (1, 2):
        deltas = [
            sign * product(*pair) for pair in adapter_factors((9, 6), count) for sign in (1, -1)
        ]
        assert torch.isfinite(apply(method, deltas)).all()


def test_sum_or_mean_as_declared(method):
    """With N copies of a task vector a sum grows N-fold and a mean stays."""
    delta = deltas_of((6, 9), 1)[0]
    for prune in (True, False):
        if method.name in RANDOM or (prune and method.name in OTHER_SCALE):
            continue
        one, three = apply(method, [delta], prune), apply(method, [delta] * 3, prune)
        factor = 3 if method.combines == "sum" else 1
        assert torch.allclose(three, factor * one, rtol=1e-5, atol=1e-6)
        coef = method.resolve({}, 3, "test")["scaling_coef"]
        assert torch.allclose(coef * three, one, rtol=1e-5, atol=1e-6)


def test_a_sum_is_the_sum_of_its_terms(method):
    deltas = deltas_of((6, 9), 3)
    params = resolved(method, 3)
    if not method.is_sum:
        with pytest.raises(TypeError, match=method.name):
            method.term(deltas[0], 0, params, context((6, 9), True))
        return
    for prune in (True, False):
        given = context((6, 9), prune)
        terms = [method.term(delta, i, params, given) for i, delta in enumerate(deltas)]
        assert torch.allclose(method.merge(deltas, params, given), sum(terms), rtol=1e-6, atol=1e-6)


def test_parameters_are_checked(method):
    for name, key in method.parameters.items():
        for wrong in ("text", None, [1], float("nan")):
            with refusal(name, repr(wrong), kind=UsageError):
                method.resolve({name: wrong}, 2, "test")
        default = METHODS[method.name].resolve({}, 2, "x")[name]
        assert key.default is REQUIRED or default == key.default
    facts = ("the place", "scaling_coeff", "did you mean scaling_coef", "inf", "3.40282e+38")
    with refusal(*facts, kind=UsageError):
        method.resolve({"scaling_coeff": 1, "scaling_coef": float("inf")}, 2, "the place")


def test_empty_matrices_and_adapters_of_a_rank_above_the_dimensions(method, tmp_path):
    """An adapter of 6 x 5 matrices of rank 8 is merged like the full model that it stands for."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape):
        return torch.randn(shape, generator=generator)

    base = {"m.weight": new(6, 5), "empty.weight": new(0, 5), "bias": new(3)}
    up, down = new(6, 8), new(8, 5)
    full = base | {"m.weight": base["m.weight"] + up @ down}
    other = {name: value + 0.1 * new(*value.shape) for name, value in base.items()}
    states = {"base": base, "full": full, "other": other}
    states["adapter"] = {"m.lora_A": down, "m.lora_B": up}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "model.pth")
    (tmp_path / "adapter" / "config.yaml").write_text("adapter_conf: {rank: 8, alpha: 8}\n")
    policy = tmp_path / "policy.yaml"
    rules = [{"action": "prune", "patterns": ["*weight"]}, {"action": "whole", "patterns": ["*"]}]
    policy.write_text(yaml.safe_dump({"family": "test", "detect": ["*"], "rules": rules}))
    merged = []
    for expert in ("adapter", "full"):
        files = [str(tmp_path / name / "model.pth") for name in ("base", expert, "other")]
        plan = MergePlan(files[0], tuple(files[1:]), method.name, policy=str(policy))
        merged.append(dict(iter_merged(plan)))
    assert merged[0]["empty.weight"].shape == (0, 5)
    assert torch.allclose(merged[0]["m.weight"], merged[1]["m.weight"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_small_experts_are_merged_like_full_models_with_the_same_changes(name, tmp_path):
    base, *experts = write_models(tmp_path)
    small = [
        write_vector(base, experts[0], tmp_path / "v.safetensors"),
        write_lora(base, experts[1], tmp_path / "lora", 2),
    ]
    full = [str(tmp_path / f"full{number}.pth") for number in range(2)]
    for path, written in zip(small, full, strict=True):
        expert = open_expert(open_model(base), path)
        torch.save({tensor: expert.tensor(tensor) for tensor in expert.names()}, written)
    # Another rank than that of the file, which lors would take as it is.
    params = {"rank": 3} if name == "lors" else {}
    found, expected = (
        dict(iter_merged(MergePlan(base, tuple(paths), name, params))) for paths in (small, full)
    )
    for tensor in (PRUNED, BIAS):
        assert torch.allclose(found[tensor], expected[tensor], atol=1e-3), tensor
