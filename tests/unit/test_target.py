"""The place of a merged model: files that no merge wrote are never overwritten."""

import logging

import pytest
import torch

from lors.errors import UsageError
from lors.merge.plan import MergePlan
from lors.merge.run import run_merge
from tests.refusal import refusal
from tests.unit.merge_models import PRUNED, names_in, plan_of, write_models
from tests.unit.whisper_files import (
    WIDTH,
    openai_state,
    write_hugging_face,
    write_openai,
    write_peft,
)


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def plan(files):
    return plan_of(files)


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


@pytest.mark.parametrize("record", [False, True])
def test_a_directory_is_named_as_one(plan, tmp_path, record):
    place = tmp_path / "models.pth"
    place.mkdir()
    if record:
        (tmp_path / "merge.yaml").write_text("model: another.pth\n")
    with refusal(place, "directory", place / "model.pth", kind=UsageError):
        run_merge(plan, place)
    assert names_in(place) == []


def test_another_config_is_not_overwritten(plan, tmp_path):
    (tmp_path / "base" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("b: 2\n")
    with refusal(tmp_path / "out" / "config.yaml", kind=UsageError):
        run_merge(plan, tmp_path / "out" / "m.pth")
    assert names_in(tmp_path / "out") == ["config.yaml"]
    run_merge(plan, tmp_path / "base" / "merged.pth")  # beside the base: the same file
    assert (tmp_path / "base" / "config.yaml").read_text() == "a: 1\n"


@pytest.mark.parametrize("coarse", ["base", "expert", "both"])
def test_experts_that_are_rounded_more_than_the_base_model(tmp_path, files, caplog, coarse):
    roles = {"base": files[:1], "expert": files[1:2], "both": files}
    for path in roles[coarse]:
        state = torch.load(path)
        halves = {n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()}
        torch.save(halves, path)
    with caplog.at_level(logging.WARNING):
        run_merge(plan_of(files), tmp_path / "out" / "m.pth")
    warned = [record for record in caplog.messages if record.startswith(files[1])]
    assert len(warned) == (coarse == "expert") and all("bfloat16" in text for text in warned)
    assert not any(record.startswith(files[2]) for record in caplog.messages)


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
