"""The benchmark of merging: its plain code computes what LoRS computes, on tiny models."""

import sys
from pathlib import Path

import pytest
import torch

from lors.bin.merge import main
from lors.checkpoint.reader import Checkpoint
from lors.merge.methods import METHODS
from tests.threads import one_thread

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "utils" / "bench"
sys.path.insert(0, str(BENCH))
import merge as bench  # noqa: E402
import plain  # noqa: E402

sys.path.remove(str(BENCH))  # utils/bench/jobs.py is not utils/jobs.py

SELECT_OR_SUM = {"mp"}
"""Methods of matrices that decompose nothing."""
SELECT = ("lors", "lors_rank76", "centred_lors", "lors_actmat", "tact")
"""Cases that keep the largest entries: float32 may swap a few of nearly the threshold's size."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Paths of a base model and three experts: as in the benchmark, with 50 tokens.

    At this width the sum of the task vectors has no singular value below the rounding level. LoRS
    leaves such directions out, and the plain code does not.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "VOCABULARY", 50)
        return bench.make_models(tmp_path_factory.mktemp("models"), width=96, layers=1, experts=3)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices: on a busy machine the threads of BLAS would only wait for each other."""
    with one_thread():
        yield


def merged(path):
    model = Checkpoint.open(str(path))
    return {name: model.tensor(name) for name in model.names()}


@pytest.mark.parametrize("case", plain.FORMULAS)
def test_plain_code_computes_the_same(models, tmp_path, case):
    ours, other = tmp_path / "ours" / "model.safetensors", tmp_path / "plain.safetensors"
    command, _ = bench.command_of(bench.PLAIN[case], models, ours, 1, tmp_path)
    assert command[1:3] == ["-m", "lors.bin.merge"] and main(command[3:]) == 0
    plain.run_plain(case, models, other)
    tolerance = 0.02 if bench.PLAIN[case] in SELECT else 1e-3
    base, expected, found = merged(models[0]), merged(other), merged(ours)
    for name, start in base.items():
        change = torch.linalg.vector_norm(expected[name] - start)
        error = torch.linalg.vector_norm(found[name] - expected[name])
        assert error <= tolerance * change, f"{name}: {error / change}"


def test_every_method_and_option_has_a_case():
    assert {method for method, _ in bench.METHODS.values()} == set(METHODS)
    assert {options[0] for options in bench.OPTIONS.values()} == {"--svc", "--boost", "--lines"}


@pytest.mark.parametrize("case", ["mp", "lines"])
def test_cases_without_plain_code_run(models, tmp_path, case):
    out = tmp_path / "model.safetensors"
    command, _ = bench.command_of(case, models, out, 1, tmp_path)
    assert main(command[3:]) == 0 and out.exists()


def test_every_method_that_decomposes_is_measured():
    decomposing = {n for n, m in METHODS.items() if m.applies_to == "matrices"} - SELECT_OR_SUM
    measured = {bench.METHODS[case][0] for case in bench.PLAIN.values()}
    assert decomposing <= measured
    options = [bench.OPTIONS.get(case, [""])[0] for case in bench.PLAIN.values()]
    assert {"--svc", "--boost"} <= set(options)
