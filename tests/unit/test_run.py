"""Merges into files, iterators and sweeps."""

import dataclasses
import logging

import pytest
import torch
import yaml

from lors.merge.plan import MergePlan, open_inputs
from lors.merge.record import read_history
from lors.merge.run import apply_delta, iter_merged, merged_delta, run_merge
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, halved, names_in, plan_of, write_models


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def plan(files):
    return plan_of(files)


def test_merging_again_into_the_same_file_gives_the_same_bytes(plan, tmp_path):
    (tmp_path / "base" / "config.yaml").write_text("a: 1\n")
    out = tmp_path / "merged" / "model.safetensors"
    run_merge(plan, out)
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    (tmp_path / "base" / "config.yaml").write_text("a: 2\n")  # as after training the base anew
    run_merge(plan, out)
    assert out.read_bytes() == before[out]
    assert (out.parent / "config.yaml").read_text() == "a: 2\n"


def test_sweep_over_scaling_coef_is_the_same_as_merging(plan):
    inputs = open_inputs(plan)
    delta = merged_delta(plan, inputs)
    for coef in (0.0, 0.3, 1.0, -0.5):
        params = {**plan.params, "scaling_coef": coef}
        single = dict(iter_merged(dataclasses.replace(plan, params=params)))
        swept = apply_delta(inputs.base, delta, coef)
        assert list(swept) == list(single)
        assert all(torch.equal(swept[name], single[name]) for name in single)
    base = apply_delta(inputs.base, delta, 0.0)
    assert all(torch.equal(base[name], inputs.base.tensor(name)) for name in base)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_of_the_output(plan, tmp_path, dtype, caplog):
    with caplog.at_level(logging.WARNING):
        run_merge(dataclasses.replace(plan, dtype=dtype), tmp_path / "out" / "m.pth")
    merged = torch.load(tmp_path / "out" / "m.pth", weights_only=True)
    exact = dict(iter_merged(plan))
    for name, tensor in merged.items():
        wanted = getattr(torch, dtype) if exact[name].is_floating_point() else torch.int64
        assert tensor.dtype == wanted and torch.equal(tensor, exact[name].to(wanted))
    assert ("rounding" in caplog.text) == (dtype != "float32")


def test_half_precision_models_are_merged_in_float32(files, tmp_path, caplog):
    halves = [halved(path) for path in files]
    plan = MergePlan(halves[0], tuple(halves[1:]), "average")
    merged = dict(iter_merged(plan))
    base, *experts = (torch.load(path)[BIAS].float() for path in halves)
    expected = base + ((experts[0] - base) + (experts[1] - base)) / 2
    assert merged[BIAS].dtype == torch.float16
    assert torch.equal(merged[BIAS], expected.half())
    for dtype, warned in ((None, True), ("float32", False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run_merge(dataclasses.replace(plan, dtype=dtype), tmp_path / "out" / "m.pth")
        assert ("rounding to float16" in caplog.text) == warned


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_result_has_the_dtype_of_onto(files, tmp_path, dtype):
    base = files[0] if dtype == "float16" else halved(files[0])
    one = tmp_path / "one" / "model.pth"
    run_merge(MergePlan(base, (files[1],), "lors", dtype=dtype), one)
    plan = MergePlan(base, (files[2],), "lors", onto=str(one))
    run_merge(plan, tmp_path / "two" / "model.pth")
    merged = torch.load(tmp_path / "two" / "model.pth")
    found = {tensor.dtype for tensor in merged.values() if tensor.is_floating_point()}
    assert found == {getattr(torch, dtype)}


def test_nan_leaves_no_output(plan, tmp_path):
    state = torch.load(plan.experts[1])
    state[BIAS][0] = float("nan")  # a NaN in a matrix may be found before the merge begins
    torch.save(state, plan.experts[1])
    with refusal(plan.experts[1], BIAS, "NaN"):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert not (tmp_path / "out").exists()


def write_once(path, text):
    if path.exists():
        raise KeyboardInterrupt
    path.write_text(text)


def test_a_merge_that_ends_while_it_replaces_the_model_can_be_made_again(
    plan, tmp_path, monkeypatch
):
    out = tmp_path / "out" / "m.pth"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lors.merge.run.write_text", write_once)
        run_merge(plan, out)
    assert names_in(out.parent) == ["m.pth", "merge.yaml"]
    onto = dataclasses.replace(plan, onto=str(out))
    assert read_history(onto, open_inputs(onto)) == {"model": str(out)}
    run_merge(plan, out)
    assert "fingerprints" in yaml.safe_load((out.parent / "merge.yaml").read_text())


def test_interrupted_merge_leaves_the_earlier_one_whole(plan, tmp_path, monkeypatch):
    out = tmp_path / "out" / "m.pth"
    run_merge(plan, out)
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    first = next(iter(iter_merged(plan)))

    def interrupted(*_):
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr("lors.merge.engine.map_in_order", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_merge(dataclasses.replace(plan, method="average", params={}), out)
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before
