import json

import numpy as np
import pytest
import torch

from lors.errors import UsageError
from lors.merge.inspection import inspect_matrices
from lors.merge.plan import MergePlan, open_inputs
from tests.refusal import refusal

QUERY = "encoder.encoders.0.self_attn.linear_q.weight"
OTHER = "decoder.decoders.0.self_attn.linear_q.weight"


def findings(tmp_path, deltas, rank=2, pattern=QUERY):
    """Findings for experts that differ from the base model by `deltas` in one matrix."""
    random = np.random.default_rng(0)
    base = torch.from_numpy(random.normal(size=deltas[0].shape))
    state = {QUERY: base, OTHER: base.clone(), "ctc.ctc_lo.bias": torch.ones(3)}
    torch.save(state, tmp_path / "base.pth")
    experts = []
    for number, delta in enumerate(deltas):
        expert = {**state, QUERY: base + torch.from_numpy(delta), OTHER: base + number + 1}
        experts.append(str(tmp_path / f"{number}.pth"))
        torch.save(expert, experts[-1])
    inputs = open_inputs(MergePlan(str(tmp_path / "base.pth"), tuple(experts), "average"))
    return dict(inspect_matrices(inputs, rank, pattern))


def orthogonal_parts(count, rows=12, columns=8):
    """Matrices of rank 2 with orthogonal row spaces and orthogonal column spaces."""
    random = np.random.default_rng(1)
    left = np.linalg.qr(random.normal(size=(rows, rows)))[0]
    right = np.linalg.qr(random.normal(size=(columns, columns)))[0]
    return [
        left[:, 2 * i : 2 * i + 2] @ np.diag([3.0, 1.0]) @ right[:, 2 * i : 2 * i + 2].T
        for i in range(count)
    ]


def test_experts_that_do_not_meet(tmp_path):
    found = findings(tmp_path, orthogonal_parts(3))[QUERY]
    identity = np.eye(3)
    assert np.allclose(found["cosine"], identity, atol=1e-5)
    assert np.allclose(found["overlap"], identity, atol=1e-5)
    assert np.allclose(found["inflation"], 1, atol=1e-4)
    for expert in found["experts"]:
        assert expert["norm"] == pytest.approx(10**0.5, rel=1e-5)
        assert expert["stable_rank"] == pytest.approx(10 / 9, rel=1e-5)
        assert expert["energy"] == pytest.approx(1, abs=1e-6)
        assert expert["spectrum"][:3] == pytest.approx([3, 1, 0], abs=1e-5)


def test_experts_that_are_the_same(tmp_path):
    part = orthogonal_parts(1)[0]
    found = findings(tmp_path, [part, 2 * part, 0.5 * part])[QUERY]
    assert np.allclose(found["cosine"], 1, atol=1e-5)
    assert np.allclose(found["sign_agreement"], 1) and np.allclose(found["overlap"], 1, atol=1e-5)
    # The sum is 3.5 times the first: the mean of 3.5 / 1, 3.5 / 2 and 3.5 / 0.5.
    assert np.allclose(found["inflation"], (3.5 + 1.75 + 7) / 3, rtol=1e-3)


def test_inflation_has_no_bounds(tmp_path):
    """Orthogonal experts have 1, opposite experts less."""
    (tmp_path / "apart").mkdir()
    one, other = orthogonal_parts(2)
    apart = findings(tmp_path / "apart", [one, 1.3 * other], rank=4)[QUERY]
    assert np.allclose(apart["inflation"], 1, atol=1e-4) and len(apart["inflation"]) == 4
    opposite = findings(tmp_path, [one, -0.5 * one])[QUERY]
    assert np.allclose(opposite["inflation"], (0.5 - 1) / 2, atol=1e-4)


def test_directions_beyond_the_rank_of_a_task_vector(tmp_path):
    """An adapter without a change in this matrix has no measures there."""
    one, other = orthogonal_parts(2)
    found = findings(tmp_path, [one, one + other, np.zeros_like(one)], rank=6)[QUERY]
    assert found["overlap"][2] == found["cosine"][2] == found["sign_agreement"][2] == [None] * 3
    assert np.allclose(np.array(found["overlap"])[:2, :2].astype(float), 1, atol=1e-5)
    assert found["experts"][2]["norm"] == 0 and found["experts"][2]["energy"] is None
    assert len(found["inflation"]) == 4
    assert json.loads(json.dumps(found)) == found
    apart = findings(tmp_path, [one, other], rank=6)[QUERY]["overlap"]
    assert np.allclose(apart, np.eye(2), atol=1e-5)


def test_sparse_task_vector(tmp_path):
    delta = np.zeros((10, 10))
    delta[0, :4] = [4, -3, 2, 1]
    expert = findings(tmp_path, [delta, np.ones((10, 10))])[QUERY]["experts"][0]
    assert expert["zeros"] == pytest.approx(0.96) and expert["largest_energy"] == pytest.approx(1)
    with_dense = findings(tmp_path, [delta, np.ones((10, 10))])[QUERY]["experts"][1]
    assert with_dense["largest_energy"] == pytest.approx(0.2, abs=1e-3)


def test_choice_of_matrices_and_rank(tmp_path):
    parts = orthogonal_parts(2)
    assert list(findings(tmp_path, parts, pattern=None)) == [QUERY, OTHER]
    assert findings(tmp_path, parts, rank=99)[QUERY]["rank"] == 8
    with refusal("ctc", kind=UsageError):
        findings(tmp_path, parts, pattern="ctc")
    with refusal("--rank", "got: 0", kind=UsageError):
        findings(tmp_path, parts, rank=0)
