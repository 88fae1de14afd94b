"""The results of LoRS against those of peft and mergekit, for formulas that they share.

LoRS needs neither package; tests/run.sh installs both for the tests.
"""

import os
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
PACKAGES = Path(__file__).parents[2] / ".test_packages"  # of tests/run.sh


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


@pytest.fixture(scope="module")
def peft(packages):
    return pytest.importorskip("peft.utils.merge_utils", reason="peft is not installed")


@pytest.mark.parametrize("shape", [(40, 30), (64, 64)])
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_sums_of_peft(peft, shape, density):
    deltas, weights = deltas_of(shape), torch.full((COUNT,), 0.4)
    expected = peft.task_arithmetic(deltas, weights)
    ours = merge("task_arithmetic", deltas, scaling_coef=0.4)
    assert torch.allclose(ours, expected, atol=1e-6)
    expected = peft.magnitude_prune(deltas, weights, density)
    ours = merge("mp", deltas, density=density, scaling_coef=0.4)
    assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_of_peft(peft, density):
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
    "multislerp": ("multislerp", {}, {"weight": 1.0}),
    "sce": ("sce", {"density": 0.4}, {"select_topk": 0.4}),
}


SHAPES = {"first.weight": (40, 30), "second.weight": (16, 16)}
# All cases in one process: mergekit takes many seconds to import.
MERGEKIT = """
import sys
from mergekit.scripts.merge_raw_pytorch import main
for case in sys.argv[1:]:
    main([f"{case}.yaml", case], standalone_mode=False)
"""


def correlated_deltas(shape):
    """Task vectors with a part in common."""
    deltas = deltas_of(shape)
    return [delta + 0.5 * deltas[0] for delta in deltas]


@pytest.fixture(scope="module")
def merged_by_mergekit(tmp_path_factory):
    """Merge with every method of CASES; return case -> state dict."""
    if not (PACKAGES / "mergekit").is_dir():
        pytest.skip("mergekit is not installed")
    folder = tmp_path_factory.mktemp("mergekit")
    deltas = {name: correlated_deltas(shape) for name, shape in SHAPES.items()}
    for number in range(COUNT):
        state = {name: of[number] for name, of in deltas.items()}
        save_file(state, folder / f"{number}.safetensors")
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    save_file(zeros, folder / "base.safetensors")
    for case, (_, _, params) in CASES.items():
        models = [{"model": str(folder / f"{number}.safetensors")} for number in range(COUNT)]
        config = {
            "merge_method": case,
            "models": models,
            "parameters": params,
            "dtype": "float32",
        }
        if case not in ("linear", "karcher"):
            config["base_model"] = str(folder / "base.safetensors")
        (folder / f"{case}.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-c", MERGEKIT, *CASES]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    return {case: load_file(next((folder / case).glob("*.safetensors"))) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_mergekit(merged_by_mergekit, case):
    method, params, _ = CASES[case]
    for name, shape in SHAPES.items():
        ours = merge(method, correlated_deltas(shape), **params)
        assert torch.allclose(ours, merged_by_mergekit[case][name], atol=1e-5), name
