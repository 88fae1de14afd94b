"""The engine: the same result on all routes and for any number of threads."""

import dataclasses

import pytest
import torch

from lors.errors import UsageError
from lors.merge.methods import METHODS
from lors.merge.plan import MergePlan
from lors.merge.run import iter_merged, merged_delta, run_merge
from tests.refusal import refusal
from tests.unit.merge_models import BIAS, PRUNED, merged_by, plan_of, write_models


@pytest.fixture
def files(tmp_path):
    return write_models(tmp_path)


@pytest.fixture
def plan(files):
    return plan_of(files)


@pytest.mark.parametrize("run", [merged_delta, lambda plan, nj: list(iter_merged(plan, nj=nj))])
def test_no_threads(plan, run):
    with refusal("--nj", "got: 0", kind=UsageError):
        run(plan, nj=0)


def test_overflow_is_an_error(plan):
    params = {**plan.params, "scaling_coef": 1e6}
    with refusal("torch.float16"):
        dict(iter_merged(dataclasses.replace(plan, params=params, dtype="float16")))


def test_weights_scale_task_vectors(files):
    base = torch.load(files[0])
    only = [merged_by([files[0], expert])[PRUNED] - base[PRUNED] for expert in files[1:]]
    both = merged_by(files, weights=(2.0, -0.5))[PRUNED] - base[PRUNED]
    assert torch.allclose(both, 2 * only[0] - 0.5 * only[1], atol=1e-6)
    with refusal("weights", "2 numbers", kind=UsageError):
        MergePlan("b", ("e", "f"), "lors", weights=(1.0,))


def test_calibration_touches_pruned_matrices_only(files):
    plain, calibrated = merged_by(files), merged_by(files, svc=0.5)
    assert torch.equal(plain[BIAS], calibrated[BIAS])
    assert not torch.allclose(plain[PRUNED], calibrated[PRUNED], atol=1e-3)


@pytest.mark.parametrize("method", ["lors", "tsv_m", "karcher"])
def test_boosting_touches_pruned_matrices_only(files, method):
    options = {"method": method, "params": {}}
    plain, boosted = merged_by(files, **options), merged_by(files, **options, boost=0.3)
    assert torch.equal(plain[BIAS], boosted[BIAS])
    assert not torch.allclose(plain[PRUNED], boosted[PRUNED], atol=1e-3)
    same = merged_by(files, **options, boost=1)
    assert all(torch.equal(same[name], plain[name]) for name in plain)


def test_boosting_follows_calibration(files):
    options = {"svc": 0.5, "boost": 0.0}
    delta = merged_by(files, **options)[PRUNED] - torch.load(files[0])[PRUNED]
    values = torch.linalg.svdvals(delta.double())
    only = merged_by(files, svc=0.5)[PRUNED] - torch.load(files[0])[PRUNED]
    assert torch.allclose(values, torch.linalg.svdvals(only.double())[0], rtol=1e-4)


@pytest.mark.parametrize("method", ["lors", "average", "actmat"])
def test_lines_scales_by_depth(tmp_path, method):
    """Layers 0 and 2 of three in the encoder, one layer in the decoder, and a tensor outside."""
    factors = {
        "encoder.encoders.0.self_attn.linear_q.weight": 0.5,
        "encoder.encoders.1.self_attn.linear_q.bias": 1.0,
        "encoder.encoders.2.self_attn.linear_q.weight": 1.5,
        "decoder.decoders.0.self_attn.linear_q.weight": 0.5,
        "encoder.embed.conv.2.weight": 0.5,
    }
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        shapes = {name: (6,) if name.endswith("bias") else (6, 5) for name in factors}
        state = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
        torch.save(state, tmp_path / f"{seed}.pth")
    files = [str(tmp_path / f"{seed}.pth") for seed in range(3)]
    plan = MergePlan(files[0], tuple(files[1:]), method)
    scaled = dataclasses.replace(plan, lines=(0.5, 1))
    delta, scaled_delta = merged_delta(plan), merged_delta(scaled)
    for name, factor in factors.items():
        assert torch.allclose(scaled_delta[name], factor * delta[name]), name
    base, merged = torch.load(files[0]), dict(iter_merged(scaled))
    for name in factors:
        added = base[name] + plan.scaling_coef * scaled_delta[name]
        assert torch.allclose(merged[name], added, atol=1e-6), name


def test_lines_without_layers(files, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("family: mine\ndetect: []\nrules: [{action: whole, patterns: ['*']}]\n")
    with refusal("stacks", path, files[0]):
        merged_by(files, method="average", params={}, policy=str(path), lines=(0.5, 1))


def test_masks_depend_on_seed_tensor_and_expert(files):
    one, same = (merged_by(files, method="dare_linear", params={}) for _ in range(2))
    other = merged_by(files, method="dare_linear", params={}, seed=1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[PRUNED], other[PRUNED])


@pytest.mark.parametrize("options", [{}, {"boost": 0.1, "lines": (0.5, 1)}])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_for_any_number_of_threads(files, method, options):
    plan = MergePlan(files[0], tuple(files[1:]), method, **options)
    alone = dict(iter_merged(plan))
    for nj in (1, 2, 5):
        together = list(iter_merged(plan, nj=nj))
        assert [name for name, _ in together] == list(alone)
        assert all(torch.equal(alone[name], tensor) for name, tensor in together)


@pytest.mark.parametrize(
    ("method", "params", "suffix"),
    [
        ("lors", {"rank": {"ratio": 0.1}}, "pth"),
        ("lors", {"rank": {"ratio": 0.1}}, "safetensors"),
        ("actmat", {}, "safetensors"),
        ("actmat", {"ridge": 0}, "safetensors"),
        ("cart", {}, "safetensors"),
    ],
)
@pytest.mark.parametrize("width", [96, 330])
def test_same_bytes_for_any_number_of_threads(tmp_path, method, params, suffix, width):
    """The matrices are so wide that BLAS and LAPACK would use several threads if allowed."""
    names = [
        f"{s}.{s}s.{n}.self_attn.linear_q.weight" for s in ("encoder", "decoder") for n in "01"
    ]
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        state = {name: torch.randn(width, width, generator=random) for name in names}
        torch.save(state, tmp_path / f"{seed}.pth")
    experts = (str(tmp_path / "1.pth"), str(tmp_path / "2.pth"))
    boost = None if method == "lors" else 0.1
    plan = MergePlan(str(tmp_path / "0.pth"), experts, method, params, boost=boost)
    contents = set()
    for nj in (1, 2, 5, 1):
        run_merge(plan, tmp_path / "out" / f"model.{suffix}", nj)
        contents.add((tmp_path / "out" / f"model.{suffix}").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("options", [{}, {"lines": (0.3, 1.1)}])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_bytes_by_rows_of_any_number(files, method, options, monkeypatch):
    plan = MergePlan(files[0], tuple(files[1:]), method, **options)
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
