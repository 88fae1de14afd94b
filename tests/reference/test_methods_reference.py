"""Every merge method against its formula, written in plain float64 numpy.

The expected values use nothing from lors except the random numbers of the masks.
"""

import numpy as np
import pytest
import torch

from lors.linalg.calibration import boost_singular_values, calibrate_singular_values
from lors.merge.methods import METHODS
from lors.merge.methods.base import TensorContext
from tests.reference.test_merge_reference import boosted_float64

SHAPES = [(14, 14), (24, 10), (10, 24), (8, 6, 3)]


def deltas_of(shape, seed, count):
    """Task vectors as from fine-tuning: a shared part, and low-rank, sparse and dense parts."""
    random = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    shared = random.normal(size=(rows, columns))
    made = []
    for _ in range(count):
        low_rank = random.normal(size=(rows, 2)) @ random.normal(size=(2, columns))
        sparse = random.normal(size=(rows, columns)) * (random.random((rows, columns)) < 0.1) * 4
        dense = 0.5 * random.normal(size=(rows, columns))
        made.append((0.3 * shared + low_rank + sparse + dense).reshape(shape).astype(np.float32))
    return made


def random_of(index):
    return np.random.default_rng([11, index])


def merge(name, deltas, prune=True, **params):
    method = METHODS[name]
    params = method.resolve(params, len(deltas), "test")
    del params["scaling_coef"]
    context = TensorContext(prune, random_of)
    return method.merge([torch.from_numpy(d) for d in deltas], params, context).numpy()


# --- the formulas -------------------------------------------------------------------------------


def svd(matrix):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def truncated(matrix, rank):
    left, values, right = svd(matrix)
    return left[:, :rank] @ np.diag(values[:rank]) @ right[:rank]


def largest(matrix, count):
    order = np.argsort(-np.abs(matrix), axis=None, kind="stable")
    kept = np.zeros(matrix.size)
    kept[order[:count]] = 1
    return matrix * kept.reshape(matrix.shape)


def polar(matrix):
    left, _, right = svd(matrix)
    return left @ right


def elected_mean(parts):
    parts = np.array(parts)
    elected = np.sign(parts.sum(axis=0))
    agrees = (np.sign(parts) == elected) & (parts != 0)
    return (parts * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)


def dropped(tau, index, density):
    """Keep every entry with this probability, rounded to 2^-16, and divide it by that."""
    kept = round(density * 2**16)
    words = map(int, random_of(index).bit_generator.random_raw((tau.size + 3) // 4))
    draws = [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    mask = np.array(draws[: tau.size]).reshape(tau.shape) < kept
    return tau * mask / (kept / 2**16)


def average(taus):
    return np.mean(taus, axis=0)


def task_arithmetic(taus):
    return np.sum(taus, axis=0)


def svp(taus, rank=7):
    return sum(truncated(tau, rank) for tau in taus)


def mp(taus, density=0.2):
    return sum(largest(tau, int(tau.size * density)) for tau in taus)


def lors(taus, rank=7, density=0.2, order="low_rank_first", keep_norm=False):
    total = 0
    for tau in taus:
        count = int(tau.size * density)
        if order == "sparse_first":
            sparse = largest(tau, count)
            part = sparse + truncated(tau - sparse, rank)
        else:
            low_rank = truncated(tau, rank)
            rest = tau - low_rank if order == "low_rank_first" else tau
            part = low_rank + largest(rest, count)
        total = total + part * (np.linalg.norm(tau) / np.linalg.norm(part) if keep_norm else 1)
    return total


def ties(taus, density=0.2):
    return elected_mean([largest(tau, int(tau.size * density)) for tau in taus])


def dare_linear(taus, density=0.2):
    return sum(dropped(tau, index, density) for index, tau in enumerate(taus))


def dare_ties(taus, density=0.2):
    return elected_mean([dropped(tau, index, density) for index, tau in enumerate(taus)])


def della(taus, density=0.2, epsilon=0.1):
    parts = []
    for index, tau in enumerate(taus):
        part = np.zeros_like(tau)
        random = random_of(index)
        for row in range(len(tau)):
            draws = random.random(tau.shape[1], dtype=np.float32)
            for rank, column in enumerate(np.argsort(np.abs(tau[row]), kind="stable")):
                keep = density - epsilon / 2 + epsilon * rank / (tau.shape[1] - 1)
                keep = min(max(keep, 0), 1)
                if draws[column] < np.float32(keep):
                    part[row, column] = tau[row, column] / keep
        parts.append(part)
    return elected_mean(parts)


def breadcrumbs(taus, density=0.14, gamma=0.01):
    total = 0
    for tau in taus:
        outliers = int(tau.size * gamma)
        keep = min(int(tau.size * density), tau.size - outliers)
        total = total + largest(tau, outliers + keep) - largest(tau, outliers)
    return total


def model_stock(taus):
    count = len(taus)
    cosines = [
        np.sum(one * other) / (np.linalg.norm(one) * np.linalg.norm(other))
        for i, one in enumerate(taus)
        for other in taus[:i]
    ]
    cosine = max(np.mean(cosines), 0)
    return count * cosine / (1 + (count - 1) * cosine) * np.mean(taus, axis=0)


def karcher(taus):
    """The spherical mean by gradient descent along geodesics, with many small steps."""
    units = [tau.ravel() / np.linalg.norm(tau) for tau in taus]
    mean = np.sum(units, axis=0)
    mean /= np.linalg.norm(mean)
    for _ in range(2000):
        tangent = 0
        for unit in units:
            angle = np.arccos(np.clip(mean @ unit, -1, 1))
            away = unit - (mean @ unit) * mean
            if np.linalg.norm(away) > 1e-15:
                tangent = tangent + angle * away / np.linalg.norm(away)
        mean = mean + 0.1 * tangent
        mean /= np.linalg.norm(mean)
    return np.mean([np.linalg.norm(tau) for tau in taus]) * mean.reshape(taus[0].shape)


def side_by_side(decompositions):
    keep = max(len(decompositions[0][1]) // len(decompositions), 1)
    lefts = np.hstack([left[:, :keep] for left, _, _ in decompositions])
    values = np.hstack([values[:keep] for _, values, _ in decompositions])
    rights = np.vstack([right[:keep] for _, _, right in decompositions])
    return polar(lefts) @ np.diag(values) @ polar(rights)


def tsv_m(taus):
    return side_by_side([svd(tau) for tau in taus])


def boosted_tsv_m(taus, beta=0.3):
    boosted = []
    for tau in taus:
        left, values, right = svd(tau)
        energy = np.cumsum(values**2) / np.sum(values**2)
        first = next(i for i, share in enumerate(energy) if share >= beta)
        boosted.append((left, np.where(values < values[first], values[first], values), right))
    return side_by_side(boosted)


def iso_c(taus):
    left, values, right = svd(np.sum(taus, axis=0))
    return values.mean() * (left @ right)


def iso_cts(taus, common_fraction=0.8):
    left, values, right = svd(np.sum(taus, axis=0))
    full = len(values)
    own = round((full - int(full * common_fraction)) / len(taus))
    common = full - own * len(taus)
    lefts, spectrum, rights = [left[:, :common]], list(values[:common]), [right[:common]]
    project = np.eye(len(left)) - lefts[0] @ lefts[0].T
    for tau in taus:
        u, s, v = svd(project @ tau)
        lefts.append(u[:, :own])
        spectrum += list(s[:own])
        rights.append(v[:own])
    return np.mean(spectrum) * polar(np.hstack(lefts)) @ polar(np.vstack(rights))


def star(taus, eta=0.4):
    total = 0
    for tau in taus:
        left, values, right = svd(tau)
        rank = next(k for k in range(1, len(values) + 1) if values[:k].sum() >= eta * values.sum())
        kept = values[:rank] * values.sum() / values[:rank].sum()
        total = total + left[:, :rank] @ np.diag(kept) @ right[:rank]
    return total


def wudi(taus, steps=300, learning_rate=1e-5):
    """Adam as in its paper (Kingma, Ba, 2015), with the gradient of the loss by definition."""
    merged = np.sum(taus, axis=0)
    first, second = np.zeros_like(merged), np.zeros_like(merged)
    for step in range(1, steps + 1):
        gradient = sum(2 * (merged - tau) @ tau.T @ tau / np.linalg.norm(tau) ** 2 for tau in taus)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        merged = merged - learning_rate * (first / (1 - 0.9**step)) / (
            np.sqrt(second / (1 - 0.999**step)) + 1e-8
        )
    return merged


def regression(taus, parts, ridge, keep_norm):
    """The least-squares solution, by the eigenvectors of sum C."""
    total = sum(root.T @ root for _, root in parts)
    values, vectors = np.linalg.eigh(total)
    if ridge == 0:
        vectors, values = vectors[:, values > 1e-9 * values[-1]], values[values > 1e-9 * values[-1]]
    inverse = vectors @ np.diag(1 / (values + ridge * np.diag(total).mean())) @ vectors.T
    merged = sum(tau @ root.T @ root for tau, root in parts) @ inverse
    if keep_norm:
        merged *= np.mean([np.linalg.norm(tau) for tau in taus]) / np.linalg.norm(merged)
    return merged


def low_rank_and_sparse(tau, rank, density):
    low_rank = truncated(tau, rank)
    return low_rank + largest(tau - low_rank, int(tau.size * density))


def actmat(taus, ridge=1.0, keep_norm=False):
    return regression(taus, [(tau, tau) for tau in taus], ridge, keep_norm)


def tact(taus, density=0.2, ridge=1.0, keep_norm=False):
    parts = [(tau, largest(tau, int(tau.size * density))) for tau in taus]
    return regression(taus, parts, ridge, keep_norm)


def lors_actmat(taus, rank=7, density=0.2, reduce="covariances", ridge=1.0, keep_norm=False):
    reduced = [low_rank_and_sparse(tau, rank, density) for tau in taus]
    targets = reduced if reduce == "both" else taus
    return regression(taus, list(zip(targets, reduced, strict=True)), ridge, keep_norm)


def number_of(rank, matrix):
    return int(rank["ratio"] * min(matrix.shape)) if isinstance(rank, dict) else rank


def cart(taus, rank=None, centred_coef=1.0):
    rank = number_of(rank or {"ratio": 0.08}, taus[0])
    mean = np.mean(taus, axis=0)
    return mean + centred_coef * sum(truncated(tau - mean, rank) for tau in taus)


def centred_lors(taus, rank=None, density=0.1, centred_coef=1.0):
    rank = number_of(rank or {"ratio": 0.08}, taus[0])
    mean = np.mean(taus, axis=0)
    parts = [low_rank_and_sparse(tau - mean, rank, density) for tau in taus]
    return mean + centred_coef * sum(parts)


def ace(taus, epsilon=0.01, fraction=0.3):
    logs = [np.log(np.sum(tau**2)) for tau in taus]
    uneven = len(taus) > 1 and np.var(logs, ddof=1) / np.mean(logs) ** 2 > 0.3
    identity = np.eye(taus[0].shape[1])
    centred = [tau - tau.mean(axis=0, keepdims=True) for tau in taus]
    grams = [matrix.T @ matrix for matrix in centred]
    traces = [np.trace(gram) if uneven else 1 for gram in grams]
    sigmas = [gram / trace for gram, trace in zip(grams, traces, strict=True)]
    full = [sigma + epsilon / trace * identity for sigma, trace in zip(sigmas, traces, strict=True)]
    prior = sum(sigmas).mean(axis=0, keepdims=True)
    if uneven:
        prior = prior / np.mean([np.sum(tau**2) for tau in taus])
    weighted = sum(matrix @ sigma for matrix, sigma in zip(centred, full, strict=True))
    merged = weighted @ np.linalg.inv(sum(full) + prior)
    if uneven:
        mean = sum(full) / len(taus)
        rest = sum(tau @ (sigma - mean) for tau, sigma in zip(taus, sigmas, strict=True))
        left, values, right = svd(rest + merged)
        count = int(len(values) * fraction)
        merged = merged + values[:count].mean() * left[:, :count] @ right[:count]
    return merged


def sce(taus, density=1.0):
    taus = np.array(taus)
    if density < 1 and len(taus) > 1:
        variance = taus.var(axis=0)
        taus = taus * (largest(variance, int(density * np.count_nonzero(variance))) != 0)
    weights = np.array([np.mean(tau**2) for tau in taus])
    weights = (weights / weights.sum())[:, None, None]
    majority = np.where(taus.sum(axis=0) >= 0, 1, -1)
    agrees = weights * (np.sign(taus) == majority)
    total = agrees.sum(axis=0)
    return (taus * agrees).sum(axis=0) / np.where(total == 0, 1, total)


def multislerp(taus):
    """Projections on the tangent space at the mean direction, averaged, and back to the sphere."""
    units = np.array([tau / np.linalg.norm(tau) for tau in taus])
    mean = units.mean(axis=0)
    mean /= np.linalg.norm(mean)
    tangent = np.mean([unit - np.sum(unit * mean) * mean for unit in units], axis=0)
    angle = np.linalg.norm(tangent) + 1e-8
    direction = mean * np.cos(angle) + tangent * np.sin(angle) / angle
    return direction * np.mean([np.linalg.norm(tau) for tau in taus])


def between_0_and_1(values):
    return (values - values.min()) / (values.max() - values.min())


def pcb(taus, density=0.2):
    total, weights, clamped = np.sum(taus, axis=0), [], []
    for tau in taus:
        ordered = np.sort(np.abs(tau), axis=None)
        outliers = int(tau.size * 1e-4)
        size = np.clip(np.abs(tau), ordered[outliers], ordered[tau.size - 1 - outliers])
        clamped.append(size * np.sign(tau))
        score = np.exp(len(taus) * between_0_and_1(size) ** 2) * tau * total
        threshold = np.sort(score, axis=None)[int(score.size * (1 - density))]
        weights.append(between_0_and_1(np.maximum(score, threshold)))
    sums = np.sum(weights, axis=0)
    return np.sum(np.array(clamped) * weights, axis=0) / np.where(sums == 0, 1, sums)


FORMULAS = {name: globals()[name] for name in METHODS}
SUMMED_WHOLE = {name for name in METHODS if METHODS[name].is_sum}
OTHER_PARAMS = {
    "svp": {"rank": 3},
    "mp": {"density": 0.05},
    "lors": {"rank": 3, "density": 0.1},
    "ties": {"density": 0.7},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
    "della": {"density": 0.5, "epsilon": 0.4},
    "breadcrumbs": {"density": 0.3, "gamma": 0.2},
    "boosted_tsv_m": {"beta": 0.5},
    "iso_cts": {"common_fraction": 0.5},
    "star": {"eta": 0.75},
    "wudi": {"steps": 40, "learning_rate": 0.01},
    "actmat": {"ridge": 0.05},
    "tact": {"density": 0.5, "ridge": 0.3},
    "lors_actmat": {"rank": 2, "density": 0.1, "reduce": "both"},
    "cart": {"rank": 3, "centred_coef": 0.7},
    "centred_lors": {"rank": {"ratio": 0.3}, "density": 0.3, "centred_coef": 0.5},
    "ace": {"epsilon": 3.0},
    "sce": {"density": 0.3},
    "pcb": {"density": 0.6},
}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_equals_the_formula(name, shape, count):
    deltas = deltas_of(shape, [len(name), count], count)
    taus = [delta.astype(np.float64).reshape(shape[0], -1) for delta in deltas]
    for params in ({}, OTHER_PARAMS.get(name, {})):
        merged = merge(name, deltas, **params).reshape(taus[0].shape)
        expected = FORMULAS[name](taus, **params) if count > 1 or name != "model_stock" else taus[0]
        assert np.linalg.norm(merged - expected) <= 1e-5 * np.linalg.norm(expected), params


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("order", ["low_rank_first", "sparse_first", "independent"])
def test_variants_of_lors(order, keep_norm):
    deltas = deltas_of((24, 10), 5, 3)
    options = {"rank": 2, "density": 0.1, "order": order, "keep_norm": keep_norm}
    expected = lors([d.astype(np.float64) for d in deltas], **options)
    merged = merge("lors", deltas, **options)
    assert np.linalg.norm(merged - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("keep_norm", [False, True])
@pytest.mark.parametrize("ridge", [0, 1e-6, 0.02, 10])
@pytest.mark.parametrize("shape", [(14, 14), (24, 10), (10, 24)])
@pytest.mark.parametrize("name", ["actmat", "tact", "lors_actmat"])
def test_variants_of_actmat(name, shape, ridge, keep_norm):
    """Two wide matrices of 10 rows leave 4 of 24 directions without any input."""
    deltas = deltas_of(shape, 12, 2)
    options = {"ridge": ridge, "keep_norm": keep_norm}
    expected = FORMULAS[name]([delta.astype(np.float64) for delta in deltas], **options)
    merged = merge(name, deltas, **options)
    assert np.linalg.norm(merged - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(14, 14), (24, 10), (10, 24)])
def test_ace_of_experts_with_different_norms(shape, fraction):
    sizes = (1, 0.01, 0.1)
    deltas = [size * delta for size, delta in zip(sizes, deltas_of(shape, 4, 3), strict=True)]
    options = {"epsilon": 0.001, "fraction": fraction}
    taus = [delta.astype(np.float64) for delta in deltas]
    logs = np.log([np.sum(tau**2) for tau in taus])
    assert np.var(logs, ddof=1) > 0.3 * np.mean(logs) ** 2
    expected, merged = ace(taus, **options), merge("ace", deltas, **options)
    assert np.linalg.norm(merged - expected) <= 1e-5 * np.linalg.norm(expected)


def test_pcb_clamps_outliers():
    deltas = deltas_of((120, 100), 3, 2)
    deltas[0][3, 4] = 1000
    expected = pcb([delta.astype(np.float64) for delta in deltas])
    merged = merge("pcb", deltas)
    assert merged[3, 4] < 100
    assert np.linalg.norm(merged - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_tensors_that_are_not_pruned(name):
    """Methods of matrices sum or average the other tensors."""
    deltas = deltas_of((24, 10), 6, 3)
    by_entry = {
        "ties",
        "dare_linear",
        "dare_ties",
        "della",
        "breadcrumbs",
        "model_stock",
        "karcher",
        "sce",
        "multislerp",
        "pcb",
    }
    if name in by_entry:
        expected = merge(name, deltas, prune=True)
    else:
        expected = (np.sum if name in SUMMED_WHOLE else np.mean)(np.float64(deltas), axis=0)
    merged = merge(name, deltas, prune=False)
    assert np.linalg.norm(merged - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(14, 14), (24, 10), (10, 24)])
def test_calibration_equals_the_formula(shape, alpha):
    parts = deltas_of(shape, 8, 3)
    taus = [part.astype(np.float64) for part in parts]
    merged = np.sum(taus, axis=0)
    left, values, right = svd(merged)
    calibrated = []
    for r, value in enumerate(values):
        coefficients = []
        for tau in taus:
            own, all_ = left[:, r] @ tau, left[:, r] @ merged
            coefficients.append(max(alpha, (all_ @ own) / (own @ own)))
        calibrated.append(value * len(taus) / sum(coefficients))
    expected = left @ np.diag(calibrated) @ right
    result = calibrate_singular_values([torch.from_numpy(part) for part in parts], alpha).numpy()
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("beta", [0, 0.01, 0.3, 0.9, 1])
@pytest.mark.parametrize("shape", [(14, 14), (24, 10), (10, 24), (8, 6, 3)])
def test_boosting_equals_the_formula(shape, beta):
    delta = deltas_of(shape, 7, 1)[0]
    expected = boosted_float64(delta.astype(np.float64), beta)
    result = boost_singular_values(torch.from_numpy(delta), beta).numpy()
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_boosting_leaves_directions_without_content(size):
    random = np.random.default_rng(2)
    factors = random.normal(size=(40, 3)), random.normal(size=(3, 30))
    delta = (factors[0] @ factors[1] * size).astype(np.float32)
    result = boost_singular_values(torch.from_numpy(delta), 0).double().numpy()
    left, values, right = svd(delta.astype(np.float64))
    expected = values[0] * left[:, :3] @ right[:3]
    assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)
    assert not boost_singular_values(torch.zeros(4, 0), 0.5).numel()


@pytest.mark.parametrize("alpha", [0.001, 0.1, 1.0])
def test_calibration_of_parts_that_share_nothing(alpha):
    """Parts with orthogonal rows and columns (up to rounding): the sum does not change."""
    random = np.random.default_rng(9)
    left, right = (np.linalg.qr(random.normal(size=(side, side)))[0] for side in (24, 16))
    parts = [
        (left[:, own] * np.array([5, 4, 3]) * size) @ right[own]
        for own, size in ((slice(3), 1.0), (slice(3, 6), 1.3))
    ]
    parts = [part.astype(np.float32) for part in parts]
    result = calibrate_singular_values([torch.from_numpy(part) for part in parts], alpha).numpy()
    assert np.allclose(result, sum(parts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("alpha", [0, -0.5])
def test_calibration_without_a_least_coefficient(alpha):
    """Division by it would make singular values infinite."""
    with pytest.raises(ValueError, match=f"alpha .*{alpha}"):
        calibrate_singular_values([torch.eye(2)], alpha)
