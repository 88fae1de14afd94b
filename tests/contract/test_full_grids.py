"""The searches of all merge methods, on real and on synthetic speech."""

import pytest

from lors.merge.methods import METHODS
from lors.recipe.grid import read_grid
from tests.blocks import ROOT

CORPORA = ("voice_prompts", "mini_covost")
GRIDS = {corpus: read_grid(ROOT / f"egs/{corpus}/lors1/conf/tune_full.yaml") for corpus in CORPORA}


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_method_is_searched(corpus):
    grid = GRIDS[corpus]
    assert {grid.method(name) for name in grid.points} == {*METHODS}


def test_both_corpora_have_the_same_rows():
    real, synthetic = (GRIDS[corpus] for corpus in CORPORA)
    assert list(real.points) == list(synthetic.points)
    assert real.variants == synthetic.variants and real.each_expert == synthetic.each_expert
    for name, points in real.points.items():
        assert {*points[0]} == {*synthetic.points[name][0]}, name
