import numpy as np
import pytest
import torch

from lors.prune import low_rank_approx, low_rank_of_product, magnitude_prune


def reference_low_rank(matrix, rank):
    flat = matrix.double().numpy().reshape(matrix.shape[0], -1)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(matrix.shape)


def random_matrix(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 24), (40, 12), (12, 40), (12, 8, 3), (1, 9), (9, 1)])
@pytest.mark.parametrize("rank", [0, 1, 3, 7, 11, 12, 100])
def test_low_rank_is_the_svd_truncated(shape, rank):
    matrix = random_matrix(shape)
    result = low_rank_approx(matrix, rank)
    assert result.shape == matrix.shape and result.dtype == matrix.dtype
    expected = reference_low_rank(matrix, rank)
    error = np.linalg.norm(result.numpy() - expected) / np.linalg.norm(matrix.numpy())
    assert error < 2e-7  # float32 rounding of the result
    assert torch.linalg.matrix_rank(result.reshape(shape[0], -1).double(), rtol=1e-6) <= rank


@pytest.mark.parametrize("decay", [0.1, 1e-2])
def test_low_rank_of_a_fast_decaying_spectrum(decay):
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(30, 30)))[0] for _ in range(2))
    values = decay ** np.arange(30)
    matrix = torch.from_numpy((left * values) @ right)
    for rank in (1, 2, 3, 5, 20):
        error = torch.linalg.norm(matrix - low_rank_approx(matrix, rank)).item()
        optimal = np.linalg.norm(values[rank:])
        assert error <= optimal * (1 + 1e-6) + 1e-7


def test_low_rank_at_a_tie_is_still_optimal():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0]))
    result = low_rank_approx(matrix, 2)
    assert torch.linalg.norm(matrix - result).item() == pytest.approx(3.0, rel=1e-6)
    assert torch.linalg.matrix_rank(result, rtol=1e-5) == 2


def test_low_rank_of_zero_tiny_and_huge_values():
    assert not low_rank_approx(torch.zeros(5, 4), 2).any()
    matrix = random_matrix((9, 6))
    for scale in (1e-30, 1e30):  # their squares are outside float32
        result = low_rank_approx(matrix * scale, 2)
        assert torch.allclose(result / scale, low_rank_approx(matrix, 2), rtol=1e-4, atol=1e-6)


def test_low_rank_rejects_vectors_and_negative_ranks():
    with pytest.raises(ValueError, match="needs a matrix"):
        low_rank_approx(torch.ones(3), 1)
    with pytest.raises(ValueError, match="negative"):
        low_rank_approx(torch.ones(3, 3), -1)


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
    for result in (
        *(low_rank_approx(matrix, rank) for rank in (0, 2, 5, 6)),
        *(magnitude_prune(matrix, density) for density in (0, 0.5, 1)),
    ):
        result.add_(1)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_magnitude_prune_rejects_densities_outside_0_to_1(density):
    with pytest.raises(ValueError, match="from 0 to 1"):
        magnitude_prune(torch.ones(3), density)


@pytest.mark.parametrize("rank", [0, 1, 3, 5, 6, 99])
@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (4, 4)])
def test_low_rank_of_a_product_is_that_of_the_matrix(shape, rank):
    random = np.random.default_rng(rank)
    up = random.normal(size=(shape[0], 6)) * [5, 4, 3, 2, 1, 0.5]
    down = random.normal(size=(6, shape[1]))
    result = low_rank_of_product(torch.from_numpy(up), torch.from_numpy(down), rank).numpy()
    left, values, right = np.linalg.svd(up @ down, full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert np.allclose(result, expected, atol=1e-10 * values[0])
