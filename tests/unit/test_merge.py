import dataclasses
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lors
from lors.checkpoint.reader import Checkpoint
from lors.errors import UsageError
from lors.merge.describe import describe_plan
from lors.merge.methods import METHODS
from lors.merge.plan import MergePlan, open_inputs
from lors.merge.record import read_history
from lors.merge.run import apply_delta, iter_merged, merged_delta, run_merge
from tests.refusal import refusal
from tests.unit.whisper_files import (
    WIDTH,
    openai_state,
    write_hugging_face,
    write_openai,
    write_peft,
)

PRUNED = "encoder.encoders.0.self_attn.linear_q.weight"
BIAS = "encoder.encoders.0.self_attn.linear_q.bias"


def model(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "normalize.mean": torch.zeros(3),
        BIAS: torch.randn(8, generator=generator),
        PRUNED: torch.randn(8, 8, generator=generator),
        "decoder.decoders.0.self_attn.linear_q.weight": torch.randn(8, 6, generator=generator),
        "encoder.norm.num_batches_tracked": torch.tensor(seed),
    }


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base").mkdir()
    names = ["base/base.pth", "e1.pth", "e2.pth"]
    for seed, name in enumerate(names):
        torch.save(model(seed), tmp_path / name)
    return [str(tmp_path / name) for name in names]


PARAMS = {
    "rank": 2,
    "density": 0.1,
    "order": "low_rank_first",
    "threshold": "matrix",
    "keep_norm": False,
    "scaling_coef": 0.5,
}


@pytest.fixture
def plan(files):
    return MergePlan(files[0], tuple(files[1:]), "lors", {"rank": 2, "density": 0.1})


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


@pytest.mark.parametrize("run", [merged_delta, lambda plan, nj: list(iter_merged(plan, nj=nj))])
def test_no_threads(plan, run):
    with refusal("--nj", "got: 0", kind=UsageError):
        run(plan, nj=0)


def test_a_policy_that_prunes_nothing(files, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("family: mine\ndetect: []\nrules: [{action: whole, patterns: ['*']}]\n")
    plan = MergePlan(files[0], tuple(files[1:]), "lors", policy=str(path))
    opened = open_inputs(dataclasses.replace(plan, method="average", params={}))
    for inputs in (None, opened):
        with refusal("lors", "policy", path):
            merged_delta(plan, inputs)
    merged_delta(dataclasses.replace(plan, method="average", params={}))


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


def test_plans_share_open_inputs(plan):
    inputs = open_inputs(plan)
    for method in ("average", "lors"):
        other = dataclasses.replace(plan, method=method, params={"scaling_coef": 1})
        shared, alone = dict(iter_merged(other, inputs)), dict(iter_merged(other))
        assert all(torch.equal(shared[name], alone[name]) for name in alone)


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


def halved(path):
    state = torch.load(path)
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    torch.save(half, f"{path}.half.pth")
    return f"{path}.half.pth"


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


def test_copied_tensors_that_differ_are_named(plan, tmp_path, caplog):
    state = torch.load(plan.experts[0])
    state["normalize.mean"] += 1
    torch.save(state, plan.experts[0])
    with caplog.at_level(logging.WARNING):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert plan.experts[0] in caplog.text and "normalize.mean" in caplog.text
    assert plan.experts[1] not in caplog.text
    assert "num_batches_tracked" not in caplog.text
    assert not torch.load(tmp_path / "out" / "m.pth")["normalize.mean"].any()


def test_mismatched_expert(plan, tmp_path):
    state = torch.load(plan.experts[1])
    state[BIAS] = torch.ones(9)
    torch.save(state, plan.experts[1])
    with refusal(plan.experts[1], BIAS, "[9]") as caught:
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert len(caught.value.got) == 1


def test_nan_leaves_no_output(plan, tmp_path):
    state = torch.load(plan.experts[1])
    state["decoder.decoders.0.self_attn.linear_q.weight"][0, 0] = float("nan")
    torch.save(state, plan.experts[1])
    with refusal(plan.experts[1], "decoder.decoders.0.self_attn.linear_q.weight", "NaN"):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert names_in(tmp_path / "out") == []


def test_overflow_is_an_error(plan):
    params = {**plan.params, "scaling_coef": 1e6}
    with refusal("torch.float16"):
        dict(iter_merged(dataclasses.replace(plan, params=params, dtype="float16")))


def test_inputs_are_never_overwritten(plan, tmp_path, monkeypatch):
    for target in (plan.base, plan.experts[1]):
        with refusal(target, kind=UsageError):
            run_merge(plan, target)
    monkeypatch.chdir(tmp_path)
    with refusal("base/../e1.pth", kind=UsageError):
        run_merge(plan, "base/../e1.pth")


@pytest.mark.parametrize(
    ("role", "form", "written"),
    [
        ("base", "sharded", "model-00002-of-00003.safetensors"),
        ("base", "sharded", "model.safetensors"),  # would be read instead of the shards
        ("experts", "one", "model.safetensors"),
        ("experts", "adapter", "adapter_model.safetensors"),
        ("onto", "one", "model.safetensors"),
    ],
)
def test_files_in_directories_are_never_overwritten(tmp_path, role, form, written):
    place = tmp_path / "in"
    if form == "adapter":
        factors = (torch.ones(2, WIDTH), torch.ones(WIDTH, 2))
        write_peft(place, {"model.encoder.layers.1.self_attn.q_proj": factors})
    else:
        write_hugging_face(place, openai_state(1), shards=3 if form == "sharded" else 1)
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    expert = str(write_openai(tmp_path / "expert.pt", openai_state(2)))
    paths = {"base": str(base), "experts": (expert,)}
    paths |= {role: (str(place), expert) if role == "experts" else str(place)}
    before = {path: path.read_bytes() for path in place.iterdir()}
    with refusal(place / written, kind=UsageError):
        run_merge(MergePlan(method="lors", **paths), place / written)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_the_configuration_of_an_adapter_is_not_overwritten(files, tmp_path):
    (tmp_path / "base" / "config.yaml").write_text("a: 1\nadapter_conf: {alpha: 6}\n")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "config.yaml").write_text("a: 1\nadapter_conf: {alpha: 6}\n")
    stem = PRUNED.removesuffix(".weight")
    factors = {f"{stem}.lora_A": torch.ones(2, 8), f"{stem}.lora_B": torch.ones(8, 2)}
    torch.save(factors, tmp_path / "lora" / "lora.pth")
    plan = MergePlan(files[0], (str(tmp_path / "lora" / "lora.pth"),), "lors")
    with refusal(tmp_path / "lora" / "config.yaml", kind=UsageError):
        run_merge(plan, tmp_path / "lora" / "m.pth")
    assert names_in(tmp_path / "lora") == ["config.yaml", "lora.pth"]


def test_a_directory_as_base_has_its_own_config(tmp_path):
    (tmp_path / "config.yaml").write_text("of: another\n")
    base = write_hugging_face(tmp_path / "base", openai_state(0))
    expert = write_openai(tmp_path / "expert.pt", openai_state(1))
    plan = MergePlan(str(base), (str(expert),), "average")
    run_merge(plan, tmp_path / "out" / "m.pth")
    assert names_in(tmp_path / "out") == ["m.pth", "merge.yaml"]
    (base / "config.yaml").write_text("of: base\n")
    run_merge(plan, tmp_path / "out" / "m.pth")
    assert (tmp_path / "out" / "config.yaml").read_text() == "of: base\n"


def test_one_directory_for_each_merged_model(plan, tmp_path):
    run_merge(plan, tmp_path / "out" / "a.pth")
    with refusal(tmp_path / "out", "a.pth", kind=UsageError):
        run_merge(plan, tmp_path / "out" / "b.pth")
    assert not (tmp_path / "out" / "b.pth").exists()


def test_a_file_that_no_merge_wrote_is_not_replaced(plan, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.pth").write_bytes(b"mine")
    with refusal(tmp_path / "out" / "m.pth", "merge.yaml", kind=UsageError):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert (tmp_path / "out" / "m.pth").read_bytes() == b"mine"


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


def test_another_config_is_not_overwritten(plan, tmp_path):
    (tmp_path / "base" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("b: 2\n")
    with refusal(tmp_path / "out" / "config.yaml", kind=UsageError):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert names_in(tmp_path / "out") == ["config.yaml"]
    run_merge(plan, tmp_path / "base" / "merged.pth")  # beside the base: the same file
    assert (tmp_path / "base" / "config.yaml").read_text() == "a: 1\n"


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


def test_description_of_a_plan(plan):
    text = describe_plan(plan, open_inputs(plan))
    for part in (
        "lors: rank=2 density=0.1 order=low_rank_first threshold=matrix keep_norm=False",
        "keep_norm=False scaling_coef=0.5",
        "espnet_s2t",
        *plan.experts,
    ):
        assert part in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[-4:]}
    assert rows["prune"][:2] == ["2", "112"] and rows["whole"][:2] == ["1", "8"]
    assert rows["copy"][:2] == ["2", "4"] and rows["total"][:2] == ["5", "124"]


def merged_by(files, **options):
    given = {"method": "lors", "params": {"rank": 2, "density": 0.1, "scaling_coef": 0.5}}
    return dict(iter_merged(MergePlan(files[0], tuple(files[1:]), **{**given, **options})))


def test_weights_scale_task_vectors(files):
    base = torch.load(files[0])
    only = [merged_by([files[0], expert])[PRUNED] - base[PRUNED] for expert in files[1:]]
    both = merged_by(files, weights=(2.0, -0.5))[PRUNED] - base[PRUNED]
    assert torch.allclose(both, 2 * only[0] - 0.5 * only[1], atol=1e-6)
    with refusal("weights", "2 numbers", kind=UsageError):
        MergePlan("b", ("e", "f"), "lors", weights=(1.0,))


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


def warnings_in(caplog):
    return [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]


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
    ],
)
def test_taking_away_with_other_settings(files, onto, caplog, options, warning):
    history_of(files, onto, **{"expert": 1, "weights": (-1.0,), **options})
    found = warnings_in(caplog)
    assert re.search(warning, " ".join(found)) if warning else not found


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


@pytest.mark.parametrize("expert", [0, 1])
def test_onto_is_neither_the_base_nor_an_expert(files, expert):
    plan = MergePlan(files[0], (files[1],), "lors", onto=files[expert])
    with refusal(files[expert], "the same weights"):
        merged_delta(plan)


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


def test_onto_a_model_of_another_base(files, tmp_path):
    run_merge(MergePlan(files[2], (files[1],), "lors"), tmp_path / "one" / "model.pth")
    plan = MergePlan(files[0], (files[1],), "lors", onto=str(tmp_path / "one" / "model.pth"))
    with refusal(tmp_path / "one" / "merge.yaml", files[0], files[2]):
        run_merge(plan, tmp_path / "two" / "model.pth")


@pytest.mark.parametrize("name", ["normalize.mean", PRUNED])
def test_nan_in_onto(files, tmp_path, name):
    one = tmp_path / "one" / "model.pth"
    run_merge(MergePlan(files[0], (files[1],), "lors"), one)
    state = torch.load(one)
    state[name].view(-1)[1] = float("nan")
    torch.save(state, one)
    plan = MergePlan(files[0], (files[2],), "lors", onto=str(one))
    with refusal("NaN", f"{one}: {name}"):
        dict(iter_merged(plan))


@pytest.mark.parametrize("option", [{"svc": 0.5}, {"onto": "m.pth"}])
def test_options_for_sums(option):
    with refusal(*option, "ties", "lors", kind=UsageError):
        MergePlan("b", ("e",), "ties", **option)


def test_calibration_touches_pruned_matrices_only(files):
    plain, calibrated = merged_by(files), merged_by(files, svc=0.5)
    assert torch.equal(plain[BIAS], calibrated[BIAS])
    assert not torch.allclose(plain[PRUNED], calibrated[PRUNED], atol=1e-3)


@pytest.mark.parametrize("method", ["lors", "dare_ties", "tsv_m", "karcher"])
def test_the_same_for_any_number_of_threads(files, method):
    plan = MergePlan(files[0], tuple(files[1:]), method)
    alone = dict(iter_merged(plan))
    for nj in (1, 2, 5):
        together = list(iter_merged(plan, nj=nj))
        assert [name for name, _ in together] == list(alone)
        assert all(torch.equal(alone[name], tensor) for name, tensor in together)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("width", [96, 330])
def test_same_bytes_for_any_number_of_threads(tmp_path, suffix, width):
    """The matrices are so wide that BLAS and LAPACK would use several threads if allowed."""
    names = [
        f"{s}.{s}s.{n}.self_attn.linear_q.weight" for s in ("encoder", "decoder") for n in "01"
    ]
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        state = {name: torch.randn(width, width, generator=random) for name in names}
        torch.save(state, tmp_path / f"{seed}.pth")
    experts = (str(tmp_path / "1.pth"), str(tmp_path / "2.pth"))
    plan = MergePlan(str(tmp_path / "0.pth"), experts, "lors", {"rank": {"ratio": 0.1}})
    contents = set()
    for nj in (1, 2, 5, 1):
        run_merge(plan, tmp_path / "out" / f"model.{suffix}", nj)
        contents.add((tmp_path / "out" / f"model.{suffix}").read_bytes())
    assert len(contents) == 1


def test_masks_depend_on_seed_tensor_and_expert(files):
    one, same = (merged_by(files, method="dare_linear", params={}) for _ in range(2))
    other = merged_by(files, method="dare_linear", params={}, seed=1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[PRUNED], other[PRUNED])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_bytes_by_rows_of_any_number(files, method, monkeypatch):
    plan = MergePlan(files[0], tuple(files[1:]), method)
    merged, delta = dict(iter_merged(plan)), merged_delta(plan)
    monkeypatch.setattr("lors.merge.engine.PIECE", 20)
    again, delta_again = dict(iter_merged(plan)), merged_delta(plan)
    for name, tensor in merged.items():
        assert torch.equal(again[name], tensor), name
        assert name not in delta or torch.equal(delta_again[name], delta[name]), name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nan_is_found_by_every_method(files, method):
    state = torch.load(files[1])
    state[PRUNED][3, 4] = float("nan")
    torch.save(state, files[1])
    with refusal("1 of 64", "NaN", f"{files[1]}: {PRUNED}"):
        dict(iter_merged(MergePlan(files[0], tuple(files[1:]), method)))


@pytest.mark.parametrize("diverged", [0, 1])
@pytest.mark.parametrize("merge", [merged_delta, lambda plan: dict(iter_merged(plan))])
def test_nan_is_found_in_copied_tensors(files, diverged, merge):
    state = torch.load(files[diverged])
    state["normalize.mean"][1] = float("nan")
    torch.save(state, files[diverged])
    with refusal("1 of 3", "NaN", f"{files[diverged]}: normalize.mean"):
        merge(MergePlan(files[0], tuple(files[1:]), "lors"))
