"""Every method that decomposes matrices: the same bytes for any number of threads, in any order.

The matrices are as wide as in Whisper-base. BLAS and LAPACK would divide the work on them among
threads, and the singular vectors would then differ in their last bits.
"""

import hashlib

import pytest
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from lors.merge.methods import METHODS
from lors.merge.plan import MergePlan
from lors.merge.run import iter_merged

SHAPES = {
    "encoder.encoders.0.feed_forward.w_1.weight": (2048, 512),
    "encoder.encoders.0.feed_forward.w_2.weight": (512, 2048),
    "decoder.decoders.0.feed_forward.w_1.weight": (1536, 512),
}
ONLY_SELECTS = {"mp"}
"""Methods of matrices that decompose nothing."""
PARAMS = {
    "wudi": {"steps": 1},  # less work of the same kind
    # A small ridge: with the default the last bits of the inverse are rounded off.
    "actmat": {"ridge": 1e-6},
    "tact": {"ridge": 1e-6},
    "lors_actmat": {"ridge": 1e-6},
}
VARIANTS = {
    "Lanczos iteration": ("lors", {"rank": 1}, {}),
    "all eigenvectors": ("lors", {"rank": {"energy": 0.5}}, {}),
    "sparse part first": ("lors", {"rank": {"ratio": 0.1}, "order": "sparse_first"}, {}),
    "one threshold": ("lors", {"threshold": "global"}, {}),
    "pseudo-inverse": ("actmat", {"ridge": 0}, {}),
    "calibrated": ("task_arithmetic", {}, {"svc": 1.0}),
    "boosted": ("task_arithmetic", {}, {"boost": 0.1}),
}
"""Further ways through the decompositions: method, parameters and options."""
OF_MATRICES = {name for name in METHODS if METHODS[name].applies_to == "matrices"}
CASES = {name: (name, PARAMS.get(name, {}), {}) for name in sorted(OF_MATRICES - ONLY_SELECTS)}
CASES |= VARIANTS


def task_vectors(shape, random):
    """Return the task vectors of two experts with tied and with small singular values.

    Their singular vectors amplify the rounding errors of float64, which would vanish otherwise in a
    merged model in float32. The strong first direction ends the Lanczos iteration early.
    """
    side = min(shape)
    left, right = (torch.linalg.qr(torch.randn(n, side, generator=random))[0] for n in shape)
    spectrum = torch.full((side,), 10.0)
    spectrum[0], spectrum[side // 2 :] = 100.0, 3e-3
    halved = torch.tensor([1, 0.5]).repeat(side // 2)
    return (left * spectrum) @ right.T, (left * spectrum * halved) @ right.T


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of a base model and two experts, in one order of the tensors and in the reverse.

    The base model is zero: in the sum with it the delta would lose its last bits.
    """
    folder = tmp_path_factory.mktemp("models")
    random = torch.Generator().manual_seed(0)
    states = [{name: torch.zeros(shape) for name, shape in SHAPES.items()}]
    experts = {name: task_vectors(shape, random) for name, shape in SHAPES.items()}
    states += [{name: pair[number] for name, pair in experts.items()} for number in range(2)]
    orders = []
    for order in (list(SHAPES), list(SHAPES)[::-1]):
        orders.append([str(folder / f"{len(orders)}{number}.pth") for number in range(3)])
        for path, state in zip(orders[-1], states, strict=True):
            torch.save({name: state[name] for name in order}, path)
    return orders


@pytest.fixture
def digests(monkeypatch):
    """Digests of the results of SciPy in float64, whose last bits a merged model may round off."""
    found = []
    for name in ("svd", "eigh"):
        compute = getattr(scipy.linalg, name)

        def recorded(*args, compute=compute, **options):
            parts = compute(*args, **options)
            content = b"".join(part.tobytes() for part in parts)
            found.append(hashlib.sha256(content).hexdigest())
            return parts

        monkeypatch.setattr(scipy.linalg, name, recorded)
    return found


def merged_bytes(paths, case, nj):
    """Return name -> bytes of the merged model; BLAS and torch had `nj` threads before."""
    method, params, options = CASES[case]
    plan = MergePlan(paths[0], tuple(paths[1:]), method, params, policy="espnet_s2t", **options)
    before = torch.get_num_threads()
    with threadpool_limits(nj):
        torch.set_num_threads(nj)
        try:
            return {name: tensor.numpy().tobytes() for name, tensor in iter_merged(plan, nj=nj)}
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_same_bytes_for_threads_and_orders(models, case, digests):
    forward, backward = models
    alone, decomposed = merged_bytes(forward, case, nj=1), sorted(digests)
    digests.clear()
    together = merged_bytes(backward, case, nj=2)
    assert list(alone) == list(SHAPES) and list(together) == list(SHAPES)[::-1]
    assert [name for name in SHAPES if alone[name] != together[name]] == []
    assert sorted(digests) == decomposed
