"""Merged models against the formulas of the methods, written in float64 numpy."""

import numpy as np
import pytest
import torch

from lors.checkpoint.reader import Checkpoint
from lors.merge.plan import MergePlan
from lors.merge.run import merged_delta, run_merge

WIDTH, HIDDEN = 48, 96
PRUNED = {
    "encoder.encoders.0.self_attn.linear_q.weight": (WIDTH, WIDTH),
    "encoder.encoders.0.self_attn.linear_out.weight": (WIDTH, WIDTH),
    "encoder.encoders.0.feed_forward.w_1.weight": (HIDDEN, WIDTH),
    "encoder.encoders.0.feed_forward.w_2.weight": (WIDTH, HIDDEN),
    "decoder.decoders.0.self_attn.linear_q.weight": (WIDTH, WIDTH),
    "decoder.decoders.0.src_attn.linear_v.weight": (WIDTH, WIDTH),
    "decoder.decoders.0.feed_forward.w_1.weight": (HIDDEN, WIDTH, 1),
}
WHOLE = {
    "encoder.embed.conv.0.weight": (WIDTH, 1, 3, 3),
    "encoder.encoders.0.self_attn.linear_q.bias": (WIDTH,),
    "encoder.encoders.0.norm1.weight": (WIDTH,),
    "decoder.embed.0.weight": (60, WIDTH),
    "decoder.output_layer.weight": (60, WIDTH),
    "ctc.ctc_lo.bias": (60,),
}


def dense(shape, random):
    return random.normal(size=shape)


def decaying(shape, random):
    """An ill-conditioned task vector: the spectrum falls by ten orders of magnitude."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    full_rank = min(rows, columns)
    left = np.linalg.qr(random.normal(size=(rows, full_rank)))[0]
    right = np.linalg.qr(random.normal(size=(columns, full_rank)))[0]
    return ((left * 10.0 ** -np.linspace(0, 10, full_rank)) @ right.T).reshape(shape)


def mixed(shape, random):
    """Low-rank, sparse and dense parts, as in real fine-tuning."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    low_rank = random.normal(size=(rows, 4)) @ random.normal(size=(4, columns)) / 2
    sparse = random.normal(size=shape) * (random.random(size=shape) < 0.05) * 5
    return low_rank.reshape(shape) + sparse + 0.5 * random.normal(size=shape)


def one_direction(shape, random):
    """A task vector of rank one with entries of very different sizes."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    column = 10.0 ** random.uniform(-4, 0, size=rows)
    return np.outer(column, random.normal(size=columns)).reshape(shape)


KINDS = {f.__name__: f for f in (dense, decaying, mixed, one_direction)}


@pytest.fixture(params=KINDS)
def models(request, tmp_path):
    """Paths of a base and three experts whose task vectors are of one kind."""
    random = np.random.default_rng(1)
    make = KINDS[request.param]
    base = {
        name: torch.from_numpy(random.normal(size=shape) / np.sqrt(WIDTH)).float()
        for name, shape in {**PRUNED, **WHOLE}.items()
    }
    base["normalize.mean"] = torch.ones(80)
    base["encoder.norm.num_batches_tracked"] = torch.tensor(5)
    paths = [tmp_path / "base.pth"]
    torch.save(base, paths[0])
    for number in range(3):
        expert = dict(base)
        for name, shape in {**PRUNED, **WHOLE}.items():
            tau = make(shape, random) if name in PRUNED else random.normal(size=shape)
            scale = 0.1 * base[name].norm().item() / np.linalg.norm(tau)
            expert[name] = base[name] + torch.from_numpy(scale * tau).float()
        expert["encoder.norm.num_batches_tracked"] = torch.tensor(9 + number)
        paths.append(tmp_path / f"expert{number}.pth")
        torch.save(expert, paths[-1])
    return paths


def float64(path):
    return {name: value.double().numpy() for name, value in torch.load(path).items()}


def truncated(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def lors_float64(tau, rank, density):
    flat = tau.reshape(tau.shape[0], -1)
    low_rank = truncated(flat, rank)
    residual = flat - low_rank
    keep = int(residual.size * density)
    order = np.argsort(-np.abs(residual).ravel(), kind="stable")
    sparse = np.zeros(residual.size)
    sparse[order[:keep]] = residual.ravel()[order[:keep]]
    return (low_rank + sparse.reshape(residual.shape)).reshape(tau.shape)


def boosted_float64(delta, beta):
    flat = delta.reshape(delta.shape[0], -1)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    sums = np.cumsum(values)
    lowest = values[np.argmax(sums >= beta * sums[-1])]
    return (left @ np.diag(np.maximum(values, lowest)) @ right).reshape(delta.shape)


def reference(method, taus, pruned, params):
    if method == "lors" and pruned:
        return sum(lors_float64(tau, params["rank"], params["density"]) for tau in taus)
    return np.mean(taus, axis=0) if method == "average" else np.sum(taus, axis=0)


SETTINGS = [
    ("average", {"scaling_coef": 1.0}),
    ("task_arithmetic", {"scaling_coef": 0.3}),
    *(
        ("lors", {"rank": rank, "density": density, "scaling_coef": 0.2})
        for rank, density in [(7, 0.2), (0, 0.1), (4, 0.0), (30, 0.05), (48, 0.5), (3, 1.0), (0, 0)]
    ),
]


@pytest.mark.parametrize(("method", "params"), SETTINGS, ids=str)
def test_merged_model_and_delta_equal_the_formula(models, tmp_path, method, params):
    base_path, *expert_paths = models
    plan = MergePlan(str(base_path), tuple(map(str, expert_paths)), method, params)
    run_merge(plan, tmp_path / "out" / "merged.pth")
    merged = torch.load(tmp_path / "out" / "merged.pth")
    delta = merged_delta(plan)
    base, *experts = map(float64, models)
    assert set(delta) == {*PRUNED, *WHOLE} and set(merged) == set(base)
    for name in delta:
        taus = [expert[name] - base[name] for expert in experts]
        expected_delta = reference(method, taus, name in PRUNED, params)
        expected = base[name] + params["scaling_coef"] * expected_delta
        error = np.linalg.norm(delta[name].numpy() - expected_delta)
        assert error <= 1e-5 * np.linalg.norm(expected_delta), name
        assert merged[name].dtype == torch.float32
        error = np.linalg.norm(merged[name].numpy() - expected) / np.linalg.norm(expected)
        assert error <= 1e-6, name
    assert merged["encoder.norm.num_batches_tracked"] == 5
    assert torch.equal(merged["normalize.mean"], torch.ones(80))


@pytest.mark.parametrize("order", ["low_rank_first", "independent", "sparse_first"])
def test_global_threshold(models, order):
    base_path, *expert_paths = map(str, models)
    params = {"rank": 3, "density": 0.1, "order": order, "threshold": "global"}
    delta = merged_delta(MergePlan(base_path, tuple(expert_paths), "lors", params), nj=2)
    base, *experts = map(float64, models)
    expected = dict.fromkeys(PRUNED, 0)
    for expert in experts:
        taus = {n: (expert[n] - base[n]).reshape(len(base[n]), -1) for n in PRUNED}
        sources = taus
        if order == "low_rank_first":
            sources = {name: tau - truncated(tau, 3) for name, tau in taus.items()}
        every = np.concatenate([np.abs(source).ravel() for source in sources.values()])
        threshold = np.sort(every)[-int(every.size * 0.1)] * (1 - 1e-7)
        for name, tau in taus.items():
            sparse = np.where(np.abs(sources[name]) >= threshold, sources[name], 0)
            low_rank = truncated(tau - sparse if order == "sparse_first" else tau, 3)
            expected[name] = expected[name] + (low_rank + sparse).reshape(base[name].shape)
    for name in PRUNED:
        error = np.linalg.norm(delta[name].numpy() - expected[name])
        assert error <= 1e-5 * np.linalg.norm(expected[name]), name


REAL_LAYERS = [(768, 768), (3072, 768), (768, 3072)]


@pytest.mark.parametrize("shape", REAL_LAYERS)
@pytest.mark.parametrize("rank", [4, 7, 76])
def test_matrices_of_whisper_small(shape, rank):
    """The error in the Frobenius norm is optimal, and well-defined entries are right.

    Matrices of this size are decomposed in float32. At rank 4 the spectrum has a gap, so all
    entries are compared except the few whose residual nearly equals the threshold. At ranks 7 and
    76 neighbouring singular values nearly tie, so the entries themselves are not defined.
    """
    from lors.merge.methods.lors import lors

    tau = mixed(shape, np.random.default_rng(2)).astype(np.float32)
    result = lors(torch.from_numpy(tau), rank=rank, density=0.2).numpy()
    tau = tau.astype(np.float64)
    expected = lors_float64(tau, rank, 0.2)
    left_out, optimal = np.linalg.norm(tau - result), np.linalg.norm(tau - expected)
    assert abs(left_out / optimal - 1) <= 1e-6
    if rank == 4:
        residual = np.abs(tau - truncated(tau, rank))
        threshold = np.partition(residual, -int(0.2 * tau.size), axis=None)[-int(0.2 * tau.size)]
        tied = np.abs(residual / threshold - 1) <= 1e-5
        assert tied.sum() <= 1e-4 * tau.size
        error = np.linalg.norm((result - expected)[~tied])
        assert error <= 1e-5 * np.linalg.norm(expected)


def test_average_is_task_arithmetic_by_one_over_n(models):
    base, *experts = map(str, models)
    average = merged_delta(MergePlan(base, tuple(experts), "average"))
    total = merged_delta(MergePlan(base, tuple(experts), "task_arithmetic"))
    for name, value in average.items():
        assert torch.allclose(value, total[name] / 3, rtol=1e-6, atol=0)
    states = [Checkpoint.open(path) for path in experts]
    name = "decoder.embed.0.weight"
    mean = sum(state.tensor(name).double() for state in states) / 3
    merged = Checkpoint.open(base).tensor(name) + average[name]
    assert torch.allclose(merged.double(), mean, rtol=0, atol=1e-6)


# Tensor -> number of its layer, and of all layers of its stack; None outside the stacks.
LAYERS_OF_ESPNET = {
    "encoder.encoders.0.self_attn.linear_q.weight": (0, 4),
    "encoder.encoders.1.feed_forward.w_1.weight": (1, 4),
    "encoder.encoders.2.self_attn.linear_q.bias": (2, 4),
    "encoder.encoders.3.self_attn.linear_q.weight": (3, 4),
    "decoder.decoders.0.self_attn.linear_q.weight": (0, 2),
    "decoder.decoders.1.feed_forward.w_2.weight": (1, 2),
    "encoder.embed.conv.0.weight": None,
    "decoder.output_layer.weight": None,
}
LAYERS_OF_WHISPER = {
    "encoder.blocks.0.attn.query.weight": (0, 3),
    "encoder.blocks.1.mlp.0.weight": (1, 3),
    "encoder.blocks.2.attn.out.weight": (2, 3),
    "decoder.blocks.0.cross_attn.query.weight": (0, 1),
    "decoder.token_embedding.weight": None,
}


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 1.7), (1.0, 0.0)])
@pytest.mark.parametrize("method", ["average", "task_arithmetic", "lors"])
@pytest.mark.parametrize("layers", [LAYERS_OF_ESPNET, LAYERS_OF_WHISPER], ids=["espnet", "whisper"])
def test_lines_equals_the_formula(tmp_path, layers, method, alpha, beta):
    """The delta of layer l of the L of its stack times alpha + beta l / (L - 1)."""
    random = np.random.default_rng(7)
    shapes = {name: (12,) if name.endswith("bias") else (12, 10) for name in layers}
    paths = [tmp_path / f"{number}.pth" for number in range(4)]
    for path in paths:
        values = {name: mixed if len(shape) > 1 else dense for name, shape in shapes.items()}
        values = {name: make(shapes[name], random) for name, make in values.items()}
        torch.save({name: torch.from_numpy(value).float() for name, value in values.items()}, path)
    params = {"rank": 2, "density": 0.1} if method == "lors" else {}
    params["scaling_coef"] = 0.4
    plan = MergePlan(str(paths[0]), tuple(map(str, paths[1:])), method, params, lines=(alpha, beta))
    run_merge(plan, tmp_path / "out" / "merged.pth")
    merged = float64(tmp_path / "out" / "merged.pth")
    base, *experts = map(float64, paths)
    for name, place in layers.items():
        taus = [expert[name] - base[name] for expert in experts]
        pruned = place is not None and len(shapes[name]) > 1
        depth = 0 if place is None or place[1] == 1 else place[0] / (place[1] - 1)
        change = (alpha + beta * depth) * 0.4 * reference(method, taus, pruned, params)
        error = np.linalg.norm(merged[name] - base[name] - change)
        assert error <= 1e-5 * np.linalg.norm(change), name
