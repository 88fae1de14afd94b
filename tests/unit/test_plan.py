"""Merge plans and their open files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lors.errors import UsageError
from lors.merge.describe import describe_plan
from lors.merge.plan import MergePlan, open_inputs
from lors.merge.run import iter_merged, merged_delta, run_merge
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, PARAMS, PRUNED, names_in, plan_of, write_models


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def plan(files):
    return plan_of(files)


def test_plan_is_resolved_and_frozen(plan):
    assert plan.params == PARAMS
    assert MergePlan("b", ("e",) * 5, "lors").scaling_coef == 0.2
    assert MergePlan("b", ("e",) * 5, "average").scaling_coef == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.method = "average"


def test_wrong_plans():
    with refusal("experts", kind=UsageError):
        MergePlan("b", (), "lors")
    with refusal("lord", "did you mean lors", kind=UsageError):
        MergePlan("b", ("e",), "lord")
    with refusal("rnak", "did you mean rank", "density", "from 0 to 1", 1.5, kind=UsageError):
        MergePlan("b", ("e",), "lors", {"rnak": 3, "density": 1.5})


@pytest.mark.parametrize(
    ("wrong", "facts"),
    [
        ({"dtype": "fp16"}, ["dtype", "fp16", "float32, float16, bfloat16"]),
        ({"svc": -1}, ["svc", "1e-06", "-1"]),
        ({"boost": 1.5}, ["boost", "from 0 to 1", "1.5"]),
        ({"lines": (1.0,)}, ["lines", "alpha and beta", "got: 1"]),
        ({"lines": (1.0, float("nan"))}, ["lines", "nan"]),
        ({"weights": "1"}, ["weights", "a list"]),
        ({"weights": (float("nan"),)}, ["weights[0]", "nan"]),
        ({"weights": (float("inf"),)}, ["weights[0]", "inf"]),
        ({"experts": "de.pth"}, ["experts", "a list", "de.pth"]),
        ({"seed": -1}, ["seed", "at least 0", "-1"]),
        ({"params": {"scaling_coef": 1e300}}, ["scaling_coef", "1e+300"]),
    ],
)
def test_plans_check_their_values(wrong, facts):
    with refusal(*facts, kind=UsageError):
        MergePlan(**{"base": "b", "experts": ("e",), "method": "lors", **wrong})


def test_plans_of_paths_and_numbers_of_numpy(files, tmp_path):
    params = {"rank": np.int64(2), "density": np.float32(0.5)}
    base, *experts = map(Path, files)
    plan = MergePlan(base, experts, "lors", params, weights=(np.float64(1), np.float64(0.5)))
    assert plan.base == files[0] and plan.experts == tuple(files[1:])
    assert {name: type(plan.params[name]) for name in params} == {"rank": int, "density": float}
    run_merge(plan, tmp_path / "out" / "m.pth")
    assert names_in(tmp_path / "out") == ["m.pth", "merge.yaml"]


@pytest.mark.parametrize("option", [{"svc": 0.5}, {"onto": "m.pth"}])
def test_options_for_sums(option):
    with refusal(*option, "ties", "lors", kind=UsageError):
        MergePlan("b", ("e",), "ties", **option)


def test_policy_can_be_given(files, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "family: mine\ndetect: []\nrules:\n  - {action: copy, patterns: ['encoder.*']}\n"
        "  - {action: whole, patterns: ['*']}\n"
    )
    plan = MergePlan(files[0], (files[1],), "task_arithmetic", policy=str(path))
    merged, base, expert = dict(iter_merged(plan)), *map(torch.load, files[:2])
    assert torch.equal(merged[PRUNED], base[PRUNED])
    name = "decoder.decoders.0.self_attn.linear_q.weight"
    assert torch.allclose(merged[name], expert[name], atol=1e-6)


def test_a_policy_that_prunes_nothing(files, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("family: mine\ndetect: []\nrules: [{action: whole, patterns: ['*']}]\n")
    plan = MergePlan(files[0], tuple(files[1:]), "lors", policy=str(path))
    opened = open_inputs(dataclasses.replace(plan, method="average", params={}))
    for inputs in (None, opened):
        with refusal("lors", "policy", path):
            merged_delta(plan, inputs)
    for option in ({"svc": 0.5}, {"boost": 0.01}):
        summed = dataclasses.replace(plan, method="task_arithmetic", params={}, **option)
        with refusal(*option, "policy", path):
            merged_delta(summed, opened)
    merged_delta(dataclasses.replace(plan, method="average", params={}))


def test_plans_share_open_inputs(plan):
    inputs = open_inputs(plan)
    for method in ("average", "lors"):
        other = dataclasses.replace(plan, method=method, params={"scaling_coef": 1})
        shared, alone = dict(iter_merged(other, inputs)), dict(iter_merged(other))
        assert all(torch.equal(shared[name], alone[name]) for name in alone)


def test_equal_models_are_refused_and_all_listed(files, tmp_path):
    copy = tmp_path / "copy.pth"
    torch.save(torch.load(files[1]), copy)
    experts = (files[1], str(copy), files[0], files[2])
    plan = MergePlan(files[0], experts, "average")
    for call in (
        lambda: open_inputs(plan),
        lambda: merged_delta(plan),
        lambda: list(iter_merged(plan)),
        lambda: run_merge(plan, tmp_path / "out" / "m.pth"),
    ):
        with refusal() as caught:
            call()
        of_copy, of_base = caught.value.got
        assert str(copy) in of_copy and f"the expert {files[1]}" in of_copy
        assert of_base.count(files[0]) == 2 and "the base model" in of_base
    assert not (tmp_path / "out" / "m.pth").exists()


@pytest.mark.parametrize("expert", [0, 1])
def test_onto_is_neither_the_base_nor_an_expert(files, expert):
    plan = MergePlan(files[0], (files[1],), "lors", onto=files[expert])
    with refusal(files[expert], "the same weights"):
        merged_delta(plan)


def test_mismatched_expert(plan, tmp_path):
    state = torch.load(plan.experts[1])
    state[BIAS] = torch.ones(9)
    torch.save(state, plan.experts[1])
    with refusal(plan.experts[1], BIAS, "[9]") as caught:
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert len(caught.value.got) == 1


def test_description_of_a_plan(plan):
    text = describe_plan(plan, open_inputs(plan))
    for part in (
        "lors: rank=2 density=0.1 order=low_rank_first threshold=matrix keep_norm=false",
        "keep_norm=false scaling_coef=0.5",
        "espnet_s2t",
        *plan.experts,
    ):
        assert part in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[-4:]}
    assert rows["prune"][:2] == ["2", "112"] and rows["whole"][:2] == ["1", "8"]
    assert rows["copy"][:2] == ["2", "4"] and rows["total"][:2] == ["5", "124"]
