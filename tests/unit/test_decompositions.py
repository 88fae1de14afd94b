import pytest
import torch

from lors.linalg.low_rank import Energy, Ratio
from lors.merge.decompositions import Decompositions
from lors.merge.plan import MergePlan
from lors.merge.run import merged_delta, run_merge
from tests.refusal import refusal

NAMES = [f"{s}.{s}s.0.self_attn.linear_q.weight" for s in ("encoder", "decoder")]


@pytest.fixture
def files(tmp_path):
    paths = []
    for seed in range(3):
        random = torch.Generator().manual_seed(seed)
        state = {name: torch.randn(12, 9, generator=random) for name in NAMES}
        state["encoder.after_norm.bias"] = torch.randn(9, generator=random)
        paths.append(str(tmp_path / f"{seed}.pth"))
        torch.save(state, paths[-1])
    return paths


def plan_of(files, **params):
    return MergePlan(files[0], tuple(files[1:]), "lors", {"density": 0.2, **params})


@pytest.fixture
def no_decompositions(monkeypatch):
    def fail(*_):
        raise AssertionError("decomposed again")

    def forbid():
        monkeypatch.setattr("lors.merge.decompositions.leading_directions", fail)
        monkeypatch.setattr("lors.merge.engine.low_rank_factors", fail)

    return forbid


RANKS = [0, 1, 4, 8, 9, 20, Ratio(0.3), Energy(0), Energy(0.5), Energy(0.9)]


@pytest.mark.parametrize("rank", RANKS, ids=str)
def test_the_same_merge_with_kept_decompositions(files, tmp_path, rank, no_decompositions):
    plan = plan_of(
        files,
        rank={"ratio": rank.ratio}
        if isinstance(rank, Ratio)
        else {"energy": rank.energy}
        if isinstance(rank, Energy)
        else rank,
    )
    cache = Decompositions(tmp_path / "cache")
    expected, first = merged_delta(plan), merged_delta(plan, cache=cache)
    no_decompositions()
    second = merged_delta(plan, cache=cache)
    for name, tensor in expected.items():
        assert torch.allclose(first[name], tensor, rtol=1e-5, atol=1e-6)
        assert torch.equal(first[name], second[name])


def test_a_grid_is_decomposed_once(files, tmp_path, no_decompositions):
    cache = Decompositions(tmp_path, rank=6)
    plans = [plan_of(files, rank=r, density=d) for r in (6, 2, 4) for d in (0.1, 0.5)]
    expected = [merged_delta(plan) for plan in plans]
    merged_delta(plan_of(files, rank=1), cache=cache)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    no_decompositions()
    for plan, deltas in zip(plans, expected, strict=True):
        for name, tensor in merged_delta(plan, cache=cache).items():
            assert torch.allclose(tensor, deltas[name], rtol=1e-5, atol=1e-6)


def test_a_larger_rank_replaces_a_smaller_one(files, tmp_path):
    cache = Decompositions(tmp_path)
    for rank in (2, 5, 3):
        deltas = merged_delta(plan_of(files, rank=rank), cache=cache)
        for name, tensor in merged_delta(plan_of(files, rank=rank)).items():
            assert torch.allclose(tensor, deltas[name], rtol=1e-5, atol=1e-6)


def test_weights_and_other_experts_use_the_same_files(files, tmp_path, no_decompositions):
    cache = Decompositions(tmp_path)
    merged_delta(plan_of(files, rank=3), cache=cache)
    weighted = MergePlan(files[0], (files[2],), "svp", {"rank": 3}, weights=(-2.0,))
    expected = merged_delta(weighted)
    no_decompositions()
    for name, tensor in merged_delta(weighted, cache=cache).items():
        assert torch.allclose(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_another_expert_has_files_of_its_own(files, tmp_path):
    cache = Decompositions(tmp_path / "cache")
    merged_delta(plan_of(files, rank=3), cache=cache)
    state = torch.load(files[1])
    state[NAMES[0]][0, 0] += 1
    torch.save(state, files[1])
    merged, expected = (merged_delta(plan_of(files, rank=3), cache=c) for c in (cache, None))
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in expected)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_file_in_the_place_of_the_directory(files):
    with refusal(files[0], "File exists") as caught:
        Decompositions(files[0])
    assert caught.value.expected and caught.value.hint


def test_damaged_file(files, tmp_path):
    cache = Decompositions(tmp_path / "cache")
    run_merge(plan_of(files, rank=3), tmp_path / "one" / "m.pth", cache=cache)
    path = min((tmp_path / "cache").iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with refusal(path):
        run_merge(plan_of(files, rank=3), tmp_path / "two" / "m.pth", cache=cache)
    assert not (tmp_path / "two" / "m.pth").exists()
