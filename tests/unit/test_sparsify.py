import numpy as np
import pytest
import torch

from lors.linalg.sparsify import (
    GlobalThreshold,
    TopKMask,
    band,
    low_rank_plus_sparse,
    magnitude_prune,
    random_prune,
    top_k_mask,
)


def random_matrix(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", [0, 0.001, 0.2, 0.29, 0.5, 0.999, 1])
@pytest.mark.parametrize("shape", [(10, 10), (7,), (4, 3, 3)])
def test_magnitude_prune_keeps_exactly_the_largest(shape, density):
    matrix = random_matrix(shape, seed=1)
    result = magnitude_prune(matrix, density)
    keep = int(matrix.numel() * density)
    assert torch.count_nonzero(result) == keep
    assert result.shape == matrix.shape and result.dtype == matrix.dtype
    kept = result != 0
    assert torch.equal(result[kept], matrix[kept])
    if 0 < keep < matrix.numel():
        assert matrix[kept].abs().min() > matrix[~kept].abs().max()


def test_magnitude_prune_breaks_ties_by_position():
    matrix = torch.tensor([[1.0, -2.0, 2.0], [-2.0, 3.0, 2.0]])
    assert magnitude_prune(matrix, 0.5).tolist() == [[0, -2, 2], [0, 3, 0]]
    assert magnitude_prune(torch.zeros(4), 0.5).tolist() == [0, 0, 0, 0]


def test_neither_modifies_nor_shares_its_argument():
    matrix = random_matrix((6, 6))
    before = matrix.clone()
    for result in (magnitude_prune(matrix, density) for density in (0, 0.5, 1)):
        result.add_(1)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_magnitude_prune_rejects_densities_outside_0_to_1(density):
    with pytest.raises(ValueError, match=f"density.*{density}"):
        magnitude_prune(torch.ones(3), density)


def entries_kept(matrix, low_rank, density):
    """Return the mask of S, sorted in float64; among ties the first entries are kept."""
    residual = np.abs(matrix.double().numpy() - low_rank).ravel()
    kept = np.zeros(residual.size, bool)
    kept[np.argsort(-residual, kind="stable")[: int(residual.size * density)]] = True
    return kept.reshape(matrix.shape)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (700, 300), (1, 8)])
@pytest.mark.parametrize("density", [0, 0.1, 0.73, 1])
def test_low_rank_plus_sparse(shape, density):
    matrix = random_matrix(shape)
    up, down = random_matrix((shape[0], 2), 1).double(), random_matrix((2, shape[1]), 2).double()
    result = low_rank_plus_sparse(matrix, up, down, density)
    low_rank = (up @ down).numpy()
    expected = np.where(entries_kept(matrix, low_rank, density), matrix, low_rank)
    assert result.dtype == torch.float32
    assert np.allclose(result, expected, rtol=1e-6, atol=1e-7)


def test_magnitudes_are_compared_in_the_precision_of_the_factors():
    up = 1 + 1e-12 * torch.tensor([[3.0], [1.0], [2.0], [0.0]], dtype=torch.float64)
    matrix = torch.full((4, 1), 2.0)
    result = low_rank_plus_sparse(matrix, up, torch.ones(1, 1, dtype=torch.float64), 0.5)
    assert result.flatten().tolist() == [1, 2, 1, 2]


def test_equal_magnitudes_are_kept_in_order_of_position():
    zero = torch.zeros(4, 1, dtype=torch.float64)
    result = low_rank_plus_sparse(torch.full((4, 1), 2.0), zero, zero[:1], 0.5)
    assert result.flatten().tolist() == [2, 2, 0, 0]


@pytest.mark.parametrize("density", [-0.1, 1.1])
def test_low_rank_plus_sparse_rejects_densities_outside_0_to_1(density):
    with pytest.raises(ValueError, match=f"density.*{density}"):
        low_rank_plus_sparse(torch.ones(3, 3), torch.ones(3, 1), torch.ones(1, 3), density)


@pytest.mark.parametrize("count", range(10))
def test_the_mask_of_rows_is_that_of_the_whole(count):
    tensor = torch.tensor([[2.0, -1, 3], [1, -3, 1], [0, 1, -1]])
    kept = top_k_mask(tensor, count)
    whole = kept.mask(tensor.abs())
    assert whole.sum() == count if count < 9 else whole.all()
    rows = [kept.mask(tensor[row].abs(), 3 * row) for row in range(3)]
    assert torch.equal(torch.stack(rows), whole)
    order = torch.argsort(tensor.abs().flatten(), descending=True, stable=True)[:count]
    assert whole.flatten()[order].all()


def test_mask_of_a_given_threshold():
    assert TopKMask(2.0).mask(torch.tensor([1.0, 2, 3])).tolist() == [0, 1, 1]
    assert magnitude_prune(torch.tensor([1.0, -2, 3]), 0.1, TopKMask(2.0)).tolist() == [0, -2, 3]


def test_band_is_between_the_largest_and_the_smallest():
    kept, outliers = band(torch.arange(10.0), 0.5, 0.2)
    mask = kept.mask(torch.arange(10.0)) - outliers.mask(torch.arange(10.0))
    assert mask.nonzero().flatten().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("density", [0, 0.001, 0.2, 0.5, 1])
@pytest.mark.parametrize("kind", ["normal", "wide", "ties", "zeros"])
def test_the_global_threshold_is_that_of_all_together(density, kind):
    random = np.random.default_rng(0)
    parts = [np.abs(random.normal(size=shape)) for shape in ((30, 7), (11,), (90, 90))]
    if kind == "wide":
        parts = [part ** random.integers(1, 40) for part in parts]
    elif kind == "ties":
        parts = [np.round(part, 1) for part in parts]
    elif kind == "zeros":
        parts = [np.zeros_like(part) for part in parts]
    parts = [part.astype(np.float32) for part in parts]
    found = GlobalThreshold(density)
    for _ in range(found.PASSES):
        for part in parts:
            found.add(torch.from_numpy(part))
        found.end_pass()
    every = np.sort(np.concatenate([part.ravel() for part in parts]))[::-1]
    count = int(every.size * density)
    assert found.threshold == (every[count - 1] if count else np.inf)


@pytest.mark.parametrize("density", [1e-6, 0.001, 0.2, 0.5, 0.77777, 0.99999, 1])
def test_random_prune_keeps_the_mean(density):
    count = 2**22
    result = random_prune(torch.ones(count), density, np.random.default_rng(0))
    rate = torch.count_nonzero(result).item() / count
    probability = 1 / result.max().item()  # a kept entry was divided by it
    assert result.unique().numel() == (1 if density > 1 - 2**-17 else 2)
    assert abs(probability - density) <= 2**-17 * 1.001 or density < 2**-17
    assert abs(rate - probability) <= 5 * (probability * (1 - probability) / count) ** 0.5


def test_random_masks_are_independent():
    random = np.random.default_rng(0)
    masks = np.stack([random_prune(torch.ones(2**20), 0.3, random).numpy() > 0 for _ in range(3)])
    pairs = [(masks[0], masks[1]), (masks[1], masks[2])]
    # Neighbours may come from one word of the generator.
    pairs += [(mask[:-step], mask[step:]) for mask in masks for step in range(1, 9)]
    for one, other in pairs:
        assert abs((one & other).mean() - 0.09) < 0.0015


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3, 3), (6, 0)])
def test_random_prune_of_any_shape(shape):
    tensor = torch.randn(shape)
    result = random_prune(tensor, 1, np.random.default_rng(0))
    assert torch.equal(result, tensor)


def test_random_prune_in_pieces():
    tensor = random_matrix((10, 7))
    whole = random_prune(tensor, 0.5, np.random.default_rng(3))
    random = np.random.default_rng(3)
    pieces = [random_prune(tensor[start : start + 4], 0.5, random) for start in (0, 4, 8)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan")])
def test_random_prune_rejects_densities_outside_0_to_1(density):
    with pytest.raises(ValueError, match=f"density.*{density}"):
        random_prune(torch.ones(3), density, np.random.default_rng(0))
