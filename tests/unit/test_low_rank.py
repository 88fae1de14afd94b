import numpy as np
import pytest
import torch

from lors.linalg.low_rank import Energy, Ratio, low_rank_factors, low_rank_of_product


def approximation(matrix, rank):
    up, down = low_rank_factors(matrix, rank)
    return (up @ down).to(matrix.dtype)


def reference_low_rank(matrix, rank):
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def random_matrix(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 24), (40, 12), (12, 40), (1, 9), (9, 1)])
@pytest.mark.parametrize("rank", [0, 1, 3, 7, 11, 12, 100])
def test_low_rank_is_the_svd_truncated(shape, rank):
    matrix = random_matrix(shape)
    result = approximation(matrix, rank)
    assert result.shape == matrix.shape and result.dtype == matrix.dtype
    expected = reference_low_rank(matrix, rank)
    error = np.linalg.norm(result.numpy() - expected) / np.linalg.norm(matrix.numpy())
    assert error < 2e-7  # float32 rounding of the result
    assert torch.linalg.matrix_rank(result.double(), rtol=1e-6) <= rank


@pytest.mark.parametrize("decay", [0.1, 1e-2])
def test_low_rank_of_a_fast_decaying_spectrum(decay):
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(30, 30)))[0] for _ in range(2))
    values = decay ** np.arange(30)
    matrix = torch.from_numpy((left * values) @ right)
    for rank in (1, 2, 3, 5, 20):
        error = torch.linalg.norm(matrix - approximation(matrix, rank)).item()
        optimal = np.linalg.norm(values[rank:])
        assert error <= optimal * (1 + 1e-6) + 1e-7


def test_low_rank_at_a_tie_is_still_optimal():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0]))
    result = approximation(matrix, 2)
    assert torch.linalg.norm(matrix - result).item() == pytest.approx(3.0, rel=1e-6)
    assert torch.linalg.matrix_rank(result, rtol=1e-5) == 2


def test_low_rank_of_zero_tiny_and_huge_values():
    assert not approximation(torch.zeros(5, 4), 2).any()
    matrix = random_matrix((9, 6))
    for scale in (1e-30, 1e30):  # their squares are outside float32
        result = approximation(matrix * scale, 2)
        assert torch.allclose(result / scale, approximation(matrix, 2), rtol=1e-4, atol=1e-6)


def test_low_rank_rejects_vectors_and_negative_ranks():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        approximation(torch.ones(3), 1)
    with pytest.raises(ValueError, match="-1"):
        approximation(torch.ones(3, 3), -1)


@pytest.mark.parametrize("rank", [0, 1, 3, 5, 6, 99])
@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (4, 4), (5, 4), (4, 5), (1, 3)])
def test_low_rank_of_a_product_is_that_of_the_matrix(shape, rank):
    random = np.random.default_rng(rank)
    up = random.normal(size=(shape[0], 6)) * [5, 4, 3, 2, 1, 0.5]
    down = random.normal(size=(6, shape[1]))
    thin = low_rank_of_product(torch.from_numpy(up), torch.from_numpy(down), rank)
    result = (thin[0] @ thin[1]).numpy()
    assert thin[0].shape[1] == thin[1].shape[0] <= min(rank, 6)
    left, values, right = np.linalg.svd(up @ down, full_matrices=False)
    expected = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert np.allclose(result, expected, atol=1e-10 * values[0])


def spectrum_matrix(values, shape, seed=0):
    """A float32 matrix with these singular values."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.normal(size=(n, len(values))))[0] for n in shape)
    return torch.from_numpy(((left * values) @ right.T).astype(np.float32))


# At these sizes ranks 1 and 3 use Lanczos iteration, the others a float32 Gram matrix.
LARGE = [(600, 400), (400, 600), (400, 400)]


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("rank", [1, 3, 40, 390])
def test_large_matrices_with_a_gap_at_the_cut(shape, rank):
    strong, weak = np.linspace(1, 0.7, rank), np.linspace(0.5, 0.1, 400 - rank)
    values = np.concatenate([strong, weak])
    matrix = spectrum_matrix(values, shape)
    result, expected = approximation(matrix, rank).numpy(), reference_low_rank(matrix, rank)
    assert np.linalg.norm(result - expected) <= 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("rank", [1, 3, 40])
@pytest.mark.parametrize("values", ["noise", "all equal", "pairs"])
def test_large_matrices_without_a_gap_are_optimal(rank, values):
    if values == "noise":
        matrix = random_matrix((500, 400))
    else:
        spectrum = np.ones(400) if values == "all equal" else np.repeat(np.linspace(2, 1, 200), 2)
        matrix = spectrum_matrix(spectrum, (500, 400))
    error = torch.linalg.norm(matrix.double() - approximation(matrix, rank).double())
    squares = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    assert error <= np.sqrt(squares[rank:].sum()) * (1 + 1e-6)


@pytest.mark.parametrize("true_rank", [1, 2, 4, 6, 10, 30])
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_large_matrices_of_low_rank(true_rank, rank):
    matrix = spectrum_matrix(np.linspace(2, 1, true_rank), (500, 400))
    result, expected = approximation(matrix, rank).numpy(), reference_low_rank(matrix, rank)
    assert np.linalg.norm(result - expected) <= 5e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("rank", [2, 40, 200])
def test_large_matrices_with_a_steep_spectrum(rank):
    values = 10 ** -np.linspace(0, 6, 400)
    matrix = spectrum_matrix(values, (400, 400))
    error = torch.linalg.norm(matrix.double() - approximation(matrix, rank).double())
    squares = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    # The float32 matrix itself has an error of about 1e-7.
    assert error <= np.sqrt(squares[rank:].sum()) * (1 + 1e-6) + 1e-7


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("rank", [1, 40])
def test_large_matrices_of_tiny_and_huge_values(scale, rank):
    matrix = spectrum_matrix(np.linspace(1, 0.1, 400), (400, 400))
    result = approximation(matrix * scale, rank) / scale
    assert torch.allclose(result, approximation(matrix, rank), rtol=1e-4, atol=1e-6)


def test_ratio_is_of_the_full_rank():
    matrix = random_matrix((40, 30))
    for ratio, rank in ((0, 0), (0.1, 3), (0.5, 15), (0.99, 29), (1, 30)):
        assert torch.equal(approximation(matrix, Ratio(ratio)), approximation(matrix, rank))


@pytest.mark.parametrize("shape", [(30, 20), (500, 400), (400, 500)])
@pytest.mark.parametrize("energy", [0, 0.1, 0.5, 0.9, 1])
def test_energy_is_the_smallest_rank_that_holds_it(shape, energy):
    values = 2.0 ** -np.arange(min(shape))[:20]
    matrix = spectrum_matrix(values, shape)
    kept = np.cumsum(values**2) / np.sum(values**2)
    rank = int(np.argmax(kept >= energy)) + 1 if 0 < energy < 1 else 0
    up, down = low_rank_factors(matrix, Energy(energy))
    if energy == 1:
        assert torch.allclose(up @ down, matrix.to(up.dtype), atol=1e-6)
    else:
        assert up.shape[1] == rank == down.shape[0]
        result, expected = (up @ down).numpy(), reference_low_rank(matrix, rank)
        assert np.linalg.norm(result - expected) <= 3e-6 * np.linalg.norm(matrix)


def test_energy_of_a_product():
    up, down = random_matrix((30, 6)), random_matrix((6, 20), 1)
    for energy in (0, 0.3, 0.8, 0.99):
        thin = low_rank_of_product(up, down, Energy(energy))
        direct = low_rank_factors((up.double() @ down.double()), Energy(energy))
        assert thin[0].shape == direct[0].shape
        assert torch.allclose(thin[0] @ thin[1], direct[0] @ direct[1], atol=1e-9)


@pytest.mark.parametrize("rank", [0, 3, Ratio(0.1), Energy(0.9)])
def test_nothing_learnt_has_rank_0(rank):
    assert low_rank_factors(torch.zeros(400, 300), rank)[0].shape == (400, 0)


def test_same_bytes_every_time():
    for rank in (3, 40):
        matrix = random_matrix((500, 400))
        assert torch.equal(approximation(matrix, rank), approximation(matrix, rank))


def test_argument_is_left_alone():
    matrix = random_matrix((6, 6))
    before = matrix.clone()
    for rank in (0, 2, 5, 6, Energy(0.5)):
        approximation(matrix, rank).add_(1)
    assert torch.equal(matrix, before)
