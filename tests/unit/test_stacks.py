"""Matrices of one shape decomposed together, as on a GPU (there the tests are marked `gpu`)."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from lors.linalg.low_rank import Ratio, low_rank_factors
from lors.linalg.sparsify import low_rank_plus_sparse, top_k_of_each
from lors.merge.plan import MergePlan, open_inputs
from lors.merge.run import iter_merged, merged_delta
from tests.devices import DEVICES
from tests.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices: on a busy machine the threads of BLAS would only wait for each other."""
    with one_thread(), threadpool_limits(1):
        yield


def random_stack(count, rows, columns, seed=0):
    """Matrices with three strong directions above noise."""
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
        # At the other ranks singular values of the noise nearly tie, so L is not well defined.
        if rank in (0, 3):
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
def test_top_k_of_each_breaks_ties_by_position(device, count):
    magnitudes = torch.tensor([[[3.0, 1, 1], [1, 2, 1]], [[0, 0, 0], [0, 0, 0]]])
    mask = top_k_of_each(magnitudes.to(device), count).cpu()
    order = [[0, 4, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    for found, places in zip(mask.flatten(-2), order, strict=True):
        assert found.nonzero().flatten().tolist() == sorted(places[:count])


NAMES = [f"{s}.{s}s.{n}.self_attn.linear_q.weight" for s in ("encoder", "decoder") for n in (0, 1)]
SMALL = [f"{s}.{s}s.0.feed_forward.w_1.weight" for s in ("encoder", "decoder")]


def task_vector(rows, columns, random):
    """A matrix whose spectrum has a gap after the singular values 1, 3 and 30, above noise.

    At a rank with a gap the low-rank part is well defined: two decompositions in float32 differ
    only by rounding. Without a gap they may take different directions, and both are right.
    """
    strong = np.concatenate([[40.0], [25.0, 22.0], np.linspace(12.0, 9.0, 27)])
    strong = strong[: min(rows, columns) // 4]
    left, right = (np.linalg.qr(random.normal(size=(n, len(strong))))[0] for n in (rows, columns))
    noise = random.normal(size=(rows, columns)) / (rows**0.5 + columns**0.5)
    return (left * strong) @ right.T + 3 * noise


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of a base model and three experts; matrices of 300 x 320 are decomposed in float32."""
    folder, random = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    shapes = dict.fromkeys(NAMES, (300, 320)) | dict.fromkeys(SMALL, (40, 30))
    base = {name: random.normal(size=shape) for name, shape in shapes.items()}
    for number in range(4):
        state = {
            name: torch.from_numpy(value + (number > 0) * task_vector(*value.shape, random))
            for name, value in base.items()
        }
        state["encoder.after_norm.bias"] = torch.from_numpy(random.normal(size=40))
        torch.save({name: value.float() for name, value in state.items()}, folder / f"{number}.pth")
    return [str(folder / f"{number}.pth") for number in range(4)]


WEIGHTS = (1.0, -0.5, 2.0)


def near_threshold(tau, rank, density):
    """Return the entries whose residual equals the threshold of the sparse part up to 1e-4 of it.

    The rounding of L decides on which side of the threshold they fall.
    """
    left, values, right = np.linalg.svd(tau, full_matrices=False)
    residual = np.abs(tau - (left[:, :rank] * values[:rank]) @ right[:rank])
    threshold = np.sort(residual, axis=None)[-int(tau.size * density)]
    return np.abs(residual / threshold - 1) <= 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [10**5, 10**9])
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("lors", {"rank": 1}),
        ("lors", {"rank": {"ratio": 0.1}, "keep_norm": True}),
        ("svp", {"rank": 3}),
    ],
)
def test_a_merge_by_stacks_is_the_same(files, device, window, method, params, monkeypatch):
    monkeypatch.setattr("lors.merge.engine.WINDOW_BYTES", window)
    plan = MergePlan(files[0], tuple(files[1:]), method, params, weights=WEIGHTS)
    inputs = open_inputs(plan)
    delta = merged_delta(plan, inputs)
    alone, together = dict(iter_merged(plan, inputs)), list(iter_merged(plan, inputs, 2, device))
    assert [name for name, _ in together] == list(alone)
    for name, tensor in together:
        difference = (tensor - alone[name]).double().numpy()
        if name in NAMES + SMALL and method == "lors":
            shape = delta[name].shape
            rank = 1 if params["rank"] == 1 else min(shape) // 10
            taus = [vector.delta(name).double().numpy() for vector in inputs.vectors]
            unsure = np.any([near_threshold(tau, rank, 0.2) for tau in taus], axis=0)
            assert unsure.sum() <= len(taus) + 1e-3 * unsure.size
            difference[unsure] = 0
        assert np.linalg.norm(difference) <= 1e-5 * torch.linalg.norm(delta[name]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("lors", {"order": "independent"}),
        ("lors", {"threshold": "global"}),
        ("lors", {"rank": {"energy": 0.5}}),
        ("ties", {}),
    ],
)
def test_a_merge_without_stacks_ignores_the_device(files, device, method, params):
    plan = MergePlan(files[0], tuple(files[1:]), method, params, weights=WEIGHTS)
    alone, together = dict(iter_merged(plan)), list(iter_merged(plan, nj=2, device=device))
    assert [name for name, _ in together] == list(alone)
    assert all(torch.equal(tensor, alone[name]) for name, tensor in together)
