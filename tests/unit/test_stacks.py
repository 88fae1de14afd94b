"""Matrices of one shape decomposed together, as on a GPU (there the tests are marked `gpu`)."""

import pytest
import torch

from lors.linalg.low_rank import Ratio, low_rank_factors
from lors.linalg.sparsify import low_rank_plus_sparse, mask_of_each
from lors.merge.run import MergePlan, iter_merged, merged_delta

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
        ],
    ),
]


def random_stack(count, rows, columns, seed=0):
    """Strong directions above noise, as fine-tuning makes them."""
    random = torch.Generator().manual_seed(seed)
    strong = torch.randn(count, rows, 3, generator=random) @ torch.randn(
        count, 3, columns, generator=random
    )
    return strong + 0.2 * torch.randn(count, rows, columns, generator=random)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (400, 300), (300, 400)])
@pytest.mark.parametrize("rank", [0, 1, 3, 20, Ratio(0.01), 1000])
def test_low_rank_of_each(device, shape, rank):
    stack = random_stack(3, *shape)
    stack[1] *= 1e-20
    stack[2] = 0
    up, down = low_rank_factors(stack.to(device), rank)
    product = (up @ down).float().cpu()
    for index in range(3):
        alone = low_rank_factors(stack[index], rank)
        expected = (alone[0] @ alone[1]).float()
        size = torch.linalg.norm(stack[index])
        left_out = torch.linalg.norm(stack[index] - product[index])
        assert abs(left_out - torch.linalg.norm(stack[index] - expected)) <= 2e-6 * size
        if rank in (0, 3):  # at the others noise is cut, where what nearly ties may go either way
            assert torch.linalg.norm(product[index] - expected) <= 2e-5 * size


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("density", [0, 0.1, 0.5, 1])
def test_sparse_part_of_each(device, density):
    stack, up, down = random_stack(3, 20, 30), random_stack(3, 20, 4, 1), random_stack(3, 4, 30, 2)
    parts = (stack.to(device), up.to(device), down.to(device))
    together = low_rank_plus_sparse(*parts, density).cpu()
    for index in range(3):
        alone = low_rank_plus_sparse(stack[index], up[index], down[index], density)
        assert torch.allclose(together[index], alone, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", range(7))
def test_mask_of_each_breaks_ties_by_position(device, count):
    magnitudes = torch.tensor([[[3.0, 1, 1], [1, 2, 1]], [[0, 0, 0], [0, 0, 0]]])
    mask = mask_of_each(magnitudes.to(device), count).cpu()
    order = [[0, 4, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    for found, places in zip(mask.flatten(-2), order, strict=True):
        assert found.nonzero().flatten().tolist() == sorted(places[:count])


NAMES = [f"{s}.{s}s.{n}.self_attn.linear_q.weight" for s in ("encoder", "decoder") for n in (0, 1)]


@pytest.fixture
def files(tmp_path):
    for seed in range(4):
        matrices = random_stack(len(NAMES), 300, 320, seed)
        state = dict(zip(NAMES, matrices, strict=True))
        state["encoder.encoders.0.feed_forward.w_1.weight"] = random_stack(1, 40, 30, seed)[0]
        state["decoder.decoders.0.feed_forward.w_1.weight"] = random_stack(1, 40, 30, seed + 9)[0]
        state["encoder.after_norm.bias"] = torch.randn(40)
        state = {name: value.clone() for name, value in state.items()}
        torch.save(state, tmp_path / f"{seed}.pth")
    return [str(tmp_path / f"{seed}.pth") for seed in range(4)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [10**5, 10**9])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("lors", {"rank": 1}),
        ("lors", {"rank": {"ratio": 0.1}, "keep_norm": True}),
        ("svp", {"rank": 3}),
        # Options that are for single matrices, and methods of other kinds, do not mind.
        ("lors", {"order": "independent"}),
        ("lors", {"rank": {"energy": 0.5}}),
        ("ties", {}),
    ],
)
def test_the_same_merge(files, device, window, method, params, monkeypatch):
    monkeypatch.setattr("lors.merge.engine.WINDOW_BYTES", window)
    plan = MergePlan(files[0], tuple(files[1:]), method, params, weights=(1.0, -0.5, 2.0))
    alone, together = dict(iter_merged(plan)), list(iter_merged(plan, nj=2, device=device))
    assert [name for name, _ in together] == list(alone)
    delta = merged_delta(plan)
    for name, tensor in together:
        difference = torch.linalg.norm(tensor - alone[name])
        assert difference <= 1e-3 * torch.linalg.norm(delta[name]), name
