"""merge.yaml, and merging onto a merged model."""

import dataclasses
import re

import pytest
import torch
import yaml

import lors
from lors.checkpoint.reader import Checkpoint
from lors.merge.plan import MergePlan, open_inputs
from lors.merge.plan_options import plan_from
from lors.merge.record import read_history
from lors.merge.run import iter_merged, run_merge
from tests.refusal import refusal
from tests.unit.merge_models import (
    PARAMS,
    PRUNED,
    merged_by,
    model,
    names_in,
    plan_of,
    warnings_in,
    write_models,
)


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def plan(files):
    return plan_of(files)


def test_run_merge_writes_model_record_and_config(plan, tmp_path):
    (tmp_path / "base" / "config.yaml").write_text("encoder: transformer\n# ü\n", encoding="utf-8")
    out = tmp_path / "merged" / "model.pth"
    run_merge(plan, out)
    assert names_in(out.parent) == ["config.yaml", "merge.yaml", "model.pth"]
    assert (out.parent / "config.yaml").read_text(encoding="utf-8") == "encoder: transformer\n# ü\n"
    merged = torch.load(out, weights_only=True)
    assert list(merged) == list(model(0))
    assert all(torch.equal(merged[name], tensor) for name, tensor in iter_merged(plan))
    assert merged["encoder.norm.num_batches_tracked"] == 0
    record = yaml.safe_load((out.parent / "merge.yaml").read_text())
    assert record["plan"] == {
        "base": plan.base,
        "experts": list(plan.experts),
        "method": "lors",
        "params": PARAMS,
        "policy": "espnet_s2t",
        "dtype": None,
        "seed": 0,
        "weights": [1.0, 1.0],
        "svc": None,
        "boost": None,
        "lines": None,
        "masks": None,
        "langs": [],
        "onto": None,
    }
    assert record["model"] == "model.pth" and record["lors_version"] == lors.__version__
    assert record["tensors"] == {"prune": 2, "whole": 1, "copy": 2}
    assert record["fingerprints"] == {
        "base": Checkpoint.open(plan.base).fingerprint(),
        "experts": [Checkpoint.open(expert).fingerprint() for expert in plan.experts],
    }


def test_the_record_is_a_plan_again(plan, tmp_path):
    run_merge(plan, tmp_path / "a" / "m.pth")
    record = yaml.safe_load((tmp_path / "a" / "merge.yaml").read_text())["plan"]
    again = MergePlan(**{**record, "experts": tuple(record["experts"])})
    run_merge(again, tmp_path / "b" / "m.pth")
    assert (tmp_path / "a" / "m.pth").read_bytes() == (tmp_path / "b" / "m.pth").read_bytes()


def test_onto_adds_and_takes_away(files, tmp_path):
    params = {"rank": 2, "density": 0.1, "scaling_coef": 0.5}
    first = MergePlan(files[0], (files[1],), "lors", params)
    run_merge(first, tmp_path / "one" / "model.pth")
    one = str(tmp_path / "one" / "model.pth")
    run_merge(
        MergePlan(files[0], (files[2],), "lors", params, onto=one), tmp_path / "two" / "model.pth"
    )
    two = torch.load(tmp_path / "two" / "model.pth")
    for name, value in merged_by(files).items():
        assert torch.allclose(two[name], value, atol=1e-6), name
    record = yaml.safe_load((tmp_path / "two" / "merge.yaml").read_text())
    assert record["onto"] == yaml.safe_load((tmp_path / "one" / "merge.yaml").read_text())
    # Take the first expert away, which was added two steps before.
    forget = MergePlan(
        files[0], (files[1],), "lors", params, weights=(-1,), onto=str(tmp_path / "two/model.pth")
    )
    run_merge(forget, tmp_path / "three" / "model.pth")
    three = torch.load(tmp_path / "three" / "model.pth")
    for name, value in merged_by([files[0], files[2]]).items():
        assert torch.allclose(three[name], value, atol=1e-6), name
    again = dataclasses.replace(forget, weights=(1.0,))
    with refusal(files[1]):
        run_merge(again, tmp_path / "four" / "model.pth")
    assert not (tmp_path / "four" / "model.pth").exists()


@pytest.fixture
def onto(files, tmp_path):
    """A merged model that holds the first expert."""
    out = tmp_path / "one" / "model.safetensors"
    params = {"rank": 2, "density": 0.1, "scaling_coef": 0.5}
    run_merge(MergePlan(files[0], (files[1],), "lors", params), out)
    return out


def history_of(files, onto, expert=2, **options):
    params = {"rank": 2, "density": 0.1, "scaling_coef": 0.5} | options.pop("params", {})
    plan = MergePlan(files[0], (files[expert],), "lors", params, onto=str(onto), **options)
    return read_history(plan, open_inputs(plan))


def test_history_of_a_directory(files, onto, caplog):
    assert history_of(files, onto.parent) == yaml.safe_load(
        (onto.parent / "merge.yaml").read_text()
    )
    assert not warnings_in(caplog)


def test_an_expert_may_come_again_after_it_was_taken_away(files, onto, tmp_path, caplog):
    params = {"rank": 2, "density": 0.1, "scaling_coef": 0.5}
    experts = (files[1], files[2])
    plan = MergePlan(files[0], experts, "lors", params, weights=(-1, 1), onto=str(onto))
    run_merge(plan, tmp_path / "two" / "m.pth")
    assert not warnings_in(caplog)
    assert history_of(files, tmp_path / "two" / "m.pth", expert=1)["onto"]["model"] == onto.name
    with refusal(files[2]):
        history_of(files, tmp_path / "two" / "m.pth", expert=2)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, None),
        ({"expert": 2}, "e2.pth"),
        ({"weights": (-0.5,)}, "0.25.* 0.5"),
        ({"params": {"rank": 3}}, "rank=3 .* rank=2 density=0.1"),
        ({"svc": 0.5}, "svc=0.5 .* method=lors"),
        ({"boost": 0.01}, "boost=0.01 .* method=lors"),
        ({"lines": (0.5, 1)}, r"lines=[(\[]0.5, 1.0[)\]] .* method=lors"),
    ],
)
def test_taking_away_with_other_settings(files, onto, caplog, options, warning):
    history_of(files, onto, **{"expert": 1, "weights": (-1.0,), **options})
    found = warnings_in(caplog)
    assert re.search(warning, " ".join(found)) if warning else not found


@pytest.mark.parametrize(
    ("of_model", "of_plan", "told"),
    [
        ({}, {}, ""),
        ({"boost": 0.01}, {}, "boost=0.01 is no sum"),
        ({"svc": 0.5}, {"lines": (0.5, 1.0)}, "svc=0.5 is no sum"),
        ({"method": "iso_c"}, {}, "method=iso_c is no sum"),
        ({"method": "average"}, {"boost": 0.01}, "boost=0.01 and method=average is no sum"),
    ],
)
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_onto_a_merge_that_is_no_sum(files, tmp_path, caplog, of_model, of_plan, told, weight):
    """Another expert is no part of it that could be added or taken away."""
    out = str(tmp_path / "two" / "model.pth")
    settings = {"method": "lors", "params": {"scaling_coef": 0.5}}
    run_merge(MergePlan(files[0], tuple(files[1:]), **{**settings, **of_model}), out)
    torch.save(model(3), tmp_path / "e3.pth")
    expert = str(tmp_path / "e3.pth") if weight > 0 else files[1]
    plan = MergePlan(files[0], (expert,), **{**settings, **of_plan}, weights=(weight,), onto=out)
    read_history(plan, open_inputs(plan))
    found = [text for text in warnings_in(caplog) if "merge all of them again" in text]
    assert len(found) == bool(told) and told in "".join(found)


def test_adding_with_another_factor(files, onto, caplog):
    """A single new expert has a default of 1, whatever the others have."""
    history_of(files, onto, weights=(0.5,), params={"scaling_coef": 1.0})
    assert not warnings_in(caplog)
    history_of(files, onto, params={"scaling_coef": 1.0})
    [text] = warnings_in(caplog)
    assert files[2] in text and "= 1," in text and "have 0.5" in text


def test_an_expert_of_another_base_model(files, tmp_path, caplog):
    """Independent weights of the same structure: nothing but their distance tells."""
    state = model(2)
    for name in (PRUNED, "decoder.decoders.0.self_attn.linear_q.weight"):
        state[name] = (
            torch.randn(state[name].shape, generator=torch.Generator().manual_seed(7))
            * state[name].std()
        )
    torch.save(state, files[2])
    open_inputs(plan_of(files))
    [text] = warnings_in(caplog)
    assert files[2] in text and files[0] in text and "same structure" in text


def test_a_record_of_a_version_without_post_processing(files, onto, caplog):
    path = onto.parent / "merge.yaml"
    record = yaml.safe_load(path.read_text())
    del record["plan"]["boost"], record["plan"]["lines"]
    path.write_text(yaml.safe_dump(record))
    assert history_of(files, onto, expert=1, weights=(-1.0,)) == record
    assert not warnings_in(caplog)
    plan = plan_from(str(path), {})
    assert plan.boost is None and plan.lines is None


@pytest.mark.parametrize("method", ["dare_linear", "task_arithmetic"])
def test_taking_away_from_another_place(files, tmp_path, caplog, method):
    """Random masks depend on the place among the experts; an expert of weight 0 keeps a place."""
    two = str(tmp_path / "two" / "model.pth")
    params = {"scaling_coef": 0.5}
    run_merge(MergePlan(files[0], tuple(files[1:]), method, params), two)
    one = dict(iter_merged(MergePlan(files[0], (files[1],), method, params)))
    alone = MergePlan(files[0], (files[2],), method, params, weights=(-1,), onto=two)
    placed = MergePlan(files[0], tuple(files[1:]), method, params, weights=(0, -1), onto=two)
    for plan, same in ((alone, method == "task_arithmetic"), (placed, True)):
        read_history(plan, open_inputs(plan))
        assert bool(warnings_in(caplog)) != same
        left = dict(iter_merged(plan))
        assert all(torch.allclose(left[name], one[name], atol=1e-6) for name in one) == same
        told = " ".join(warnings_in(caplog))
        assert same or ("place=1" in told and "place=2" in told)
        caplog.clear()


def test_a_record_of_another_file_is_not_taken(files, onto, caplog):
    onto = onto.rename(onto.with_name("other.safetensors"))
    assert history_of(files, onto) == {"model": str(onto)}
    assert "merge.yaml" in caplog.text and str(onto) in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        {"plan": "x"},
        {"plan": None},
        {"fingerprints": 3},
        {"fingerprints": {"base": "x"}},
        {"fingerprints": {"base": "x", "experts": []}},
        {"onto": "x"},
    ],
)
def test_a_damaged_record(files, onto, damage):
    path = onto.parent / "merge.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | damage))
    with refusal(path) as caught:
        history_of(files, onto)
    assert caught.value.hint


def test_onto_a_model_of_another_base(files, tmp_path):
    run_merge(MergePlan(files[2], (files[1],), "lors"), tmp_path / "one" / "model.pth")
    plan = MergePlan(files[0], (files[1],), "lors", onto=str(tmp_path / "one" / "model.pth"))
    with refusal(tmp_path / "one" / "merge.yaml", files[0], files[2]):
        run_merge(plan, tmp_path / "two" / "model.pth")
