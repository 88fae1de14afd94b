"""The results of LoRS against those of peft and mergekit, for formulas that they share.

LoRS needs neither package, and these tests are skipped without them. To run the tests, install both
in a separate environment: ``pip install peft mergekit pytest``.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lors.merge.methods import METHODS
from lors.merge.methods.base import TensorContext

COUNT = 3


def deltas_of(shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(COUNT)]


def merge(name, deltas, **params):
    """The merged delta of LoRS, multiplied by scaling_coef."""
    method = METHODS[name]
    params = method.resolve(params, len(deltas), "test")
    scaling_coef = params.pop("scaling_coef")
    context = TensorContext(prune=deltas[0].ndim >= 2, random_of=np.random.default_rng)
    return scaling_coef * method.merge(deltas, params, context)


class TestPeft:
    @pytest.fixture
    def peft(self):
        return pytest.importorskip("peft.utils.merge_utils", reason="peft is not installed")

    @pytest.mark.parametrize("shape", [(40, 30), (64, 64)])
    @pytest.mark.parametrize("density", [0.1, 0.5])
    def test_sums(self, peft, shape, density):
        deltas, weights = deltas_of(shape), torch.full((COUNT,), 0.4)
        expected = peft.task_arithmetic(deltas, weights)
        ours = merge("task_arithmetic", deltas, scaling_coef=0.4)
        assert torch.allclose(ours, expected, atol=1e-6)
        expected = peft.magnitude_prune(deltas, weights, density)
        ours = merge("mp", deltas, density=density, scaling_coef=0.4)
        assert torch.allclose(ours, expected, atol=1e-6)

    @pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
    def test_ties(self, peft, density):
        deltas = deltas_of((40, 30))
        expected = peft.ties(deltas, torch.ones(COUNT), density, "total")
        assert torch.allclose(merge("ties", deltas, density=density), expected, atol=1e-6)


# With a base model of zeros the task vectors are the weights, so that methods for weights and
# methods for task vectors agree.
CASES = {
    "linear": ("average", {}, {"weight": 1.0}),
    "task_arithmetic": ("task_arithmetic", {"scaling_coef": 0.4}, {"weight": 0.4}),
    "ties": ("ties", {"density": 0.3}, {"weight": 1.0, "density": 0.3}),
    "breadcrumbs": (
        "breadcrumbs",
        {"density": 0.6, "gamma": 0.05, "scaling_coef": 0.4},
        {"weight": 0.4, "density": 0.6, "gamma": 0.05},
    ),
    "model_stock": ("model_stock", {}, {}),
    "karcher": ("karcher", {}, {}),
}


class TestMergekit:
    @pytest.mark.parametrize("case", CASES)
    def test_case(self, case, tmp_path):
        tool = shutil.which("mergekit-pytorch", path=str(Path(sys.executable).parent))
        if tool is None:
            pytest.skip("mergekit is not installed")
        shapes = {"first.weight": (40, 30), "second.weight": (16, 16)}
        deltas = {name: deltas_of(shape) for name, shape in shapes.items()}
        # Task vectors have a part in common.
        deltas = {name: [d + 0.5 * of[0] for d in of] for name, of in deltas.items()}
        paths = [tmp_path / f"{number}.safetensors" for number in range(COUNT)]
        for number, path in enumerate(paths):
            save_file({name: of[number] for name, of in deltas.items()}, path)
        base = tmp_path / "base.safetensors"
        save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, base)
        method, ours, theirs = CASES[case]
        config = {
            "merge_method": case,
            "models": [{"model": str(path), "parameters": theirs} for path in paths],
            "dtype": "float32",
        }
        if case not in ("linear", "karcher"):
            config["base_model"] = str(base)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        command = [tool, str(tmp_path / "config.yaml"), str(tmp_path / "out")]
        subprocess.run(command, check=True, capture_output=True)
        merged = load_file(next((tmp_path / "out").glob("*.safetensors")))
        for name, of in deltas.items():
            assert torch.allclose(merge(method, of, **ours), merged[name], atol=1e-5), name
