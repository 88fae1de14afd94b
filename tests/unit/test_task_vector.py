import pytest
import torch

from lors.checkpoint.reader import Checkpoint
from lors.merge.task_vector import TaskVector, WeightedDeltas
from tests.refusal import refusal


def opened(path, state):
    torch.save(state, path)
    return Checkpoint.open(path)


def test_delta_is_float32_whatever_the_dtype(tmp_path):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        base = {"w": torch.tensor([[1.0, -2.0]], dtype=dtype), "s": torch.tensor(0.5, dtype=dtype)}
        expert = {
            "w": torch.tensor([[1.5, -2.0]], dtype=dtype),
            "s": torch.tensor(0.25, dtype=dtype),
        }
        vector = TaskVector(
            opened(tmp_path / f"b{dtype}.pth", base), opened(tmp_path / f"e{dtype}.pth", expert)
        )
        assert vector.delta("w").dtype == torch.float32
        assert vector.delta("w").tolist() == [[0.5, 0.0]]
        assert vector.delta("s").shape == () and vector.delta("s").item() == -0.25


def test_half_precision_is_not_subtracted_in_half_precision(tmp_path):
    base, expert = torch.tensor([0.1]).half(), torch.tensor([2000.0]).half()
    vector = TaskVector(
        opened(tmp_path / "b.pth", {"w": base}), opened(tmp_path / "e.pth", {"w": expert})
    )
    assert vector.delta("w").item() == pytest.approx(2000 - base.item(), rel=1e-6)


def test_every_mismatch_is_listed(tmp_path):
    same = torch.ones(2)
    base = {
        "same": same,
        "gone": same,
        "shape": torch.ones(3, 4),
        "dtype": same,
        "n": torch.tensor(1),
    }
    expert = {
        "same": same,
        "new": same,
        "shape": torch.ones(3, 5),
        "dtype": same.half(),
        "n": torch.tensor(1.0),
    }
    models = (opened(tmp_path / "b.pth", base), opened(tmp_path / "e.pth", expert))
    with refusal(
        tmp_path / "b.pth", tmp_path / "e.pth", "[3, 4]", "[3, 5]", "torch.int64"
    ) as caught:
        TaskVector(*models)
    # The dtypes of two floating-point tensors may differ.
    assert [line.split(":")[0] for line in caught.value.got] == ["gone", "n", "new", "shape"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("who", ["base", "expert", "both"])
def test_values_that_are_not_finite(tmp_path, bad, who):
    models = {name: {"w": torch.ones(2, 3), "ok": torch.ones(1)} for name in ("base", "expert")}
    for name in models if who == "both" else [who]:
        models[name]["w"][1, 2] = bad
    vector = TaskVector(*(opened(tmp_path / f"{name}.pth", models[name]) for name in models))
    culprit = "expert" if who == "expert" else "base"
    with refusal("1 of 6", f"{culprit}.pth: w"):
        vector.delta("w")
    assert vector.delta("ok").item() == 0


def test_a_difference_that_overflows(tmp_path):
    huge = torch.full((2,), 3e38)
    vector = TaskVector(
        opened(tmp_path / "b.pth", {"w": -huge}), opened(tmp_path / "e.pth", {"w": huge})
    )
    with refusal("e.pth: w", "float32") as caught:
        vector.delta("w")
    assert "diverge" not in str(caught.value)


@pytest.mark.parametrize("keep", [False, True])
def test_weighted_task_vectors_are_a_sequence(tmp_path, keep):
    base = opened(tmp_path / "b.pth", {"w": torch.zeros(2)})
    states = [{"w": torch.full((2,), float(value))} for value in (1, 2, 3)]
    vectors = [
        TaskVector(base, opened(tmp_path / f"{number}.pth", state))
        for number, state in enumerate(states)
    ]
    deltas = WeightedDeltas(vectors, [1.0, 10.0, 1.0], "w", keep, [None] * 3)
    plain = [1.0, 20.0, 3.0]
    assert [delta[0].item() for delta in deltas] == plain
    assert deltas[-1][0].item() == plain[-1] and deltas[-3][0].item() == plain[0]
    for part in (slice(1, None), slice(None, None, -1), slice(5, 9)):
        assert [delta[0].item() for delta in deltas[part]] == plain[part]
    for index in (3, -4):
        with pytest.raises(IndexError):
            deltas[index]
