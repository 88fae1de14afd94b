"""Grids of searches for another number of experts."""

import pytest
import yaml

from lors.bin import scale_grid as program
from lors.errors import UsageError
from lors.recipe.grid import read_grid
from lors.recipe.scaled_grid import scale_grid
from tests.blocks import ROOT
from tests.refusal import refusal

FULL = ROOT / "egs/voice_prompts/lors1/conf/tune_full.yaml"


def test_sums_get_larger_factors_for_fewer_experts(tmp_path):
    """The same points, but for scaling_coef of sums (5/2) and of Iso-C and Iso-CTS (its root)."""
    factors = scale_grid(FULL, 5, 2, tmp_path / "tune.yaml")
    before, after = read_grid(FULL), read_grid(tmp_path / "tune.yaml")
    for name in ("variants", "halving", "limit", "each_expert"):
        assert getattr(after, name) == getattr(before, name)
    assert factors.keys() == before.points.keys() == after.points.keys()
    expected = {"task_arithmetic": 2.5, "lors_paper": 2.5, "lors+boost": 2.5, "dare_linear": 2.5}
    expected |= {"lors_weights": 2.5, "iso_c": 2.5**0.5, "iso_cts": 2.5**0.5}
    expected |= {"average": 1, "tsv_m": 1, "boosted_tsv_m": 1, "actmat": 1, "ties": 1}
    assert {name: factors[name] for name in expected} == pytest.approx(expected)
    for name, points in before.points.items():
        for old, new in zip(points, after.points[name], strict=True):
            assert new == {**old, "scaling_coef": new["scaling_coef"]}
            scaled = old["scaling_coef"] * factors[name]
            assert new["scaling_coef"] == pytest.approx(scaled, rel=1e-3)


def test_the_number_that_a_grid_was_made_for(tmp_path):
    factors = scale_grid(FULL, 5, 5, tmp_path / "tune.yaml")
    assert set(factors.values()) == {1} and read_grid(tmp_path / "tune.yaml") == read_grid(FULL)


def test_grids_of_several_parts_and_without_a_factor(tmp_path):
    parts = [{"rank": [2, 3]}, {"rank": [5], "scaling_coef": [0.2, "0.4"]}]
    content = {"utterances_per_language": 60, "mine": [{"method": "lors", **p} for p in parts]}
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(content))
    scale_grid(tmp_path / "tune.yaml", 5, 4, tmp_path / "scaled.yaml")
    grid = read_grid(tmp_path / "scaled.yaml")
    assert grid.limit == 60 and grid.method("mine") == "lors"
    assert grid.points["mine"] == (
        {"rank": 2}, {"rank": 3},
        {"rank": 5, "scaling_coef": 0.25}, {"rank": 5, "scaling_coef": "0.4"},
    )  # fmt: skip


def test_the_program_prints_the_factors(tmp_path, capsys):
    words = ["--grid", str(FULL), "--experts", "5", "4"]
    assert program.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"lors_paper\t1.25", "iso_c\t1.11803", "tsv_m\t1"} <= set(lines)
    assert program.main([*words, "--out", str(tmp_path / "tune.yaml")]) == 0
    first = read_grid(FULL).points["lors"][0]["scaling_coef"]
    written = read_grid(tmp_path / "tune.yaml").points["lors"][0]["scaling_coef"]
    assert written == pytest.approx(1.25 * first, rel=1e-3)


def test_refused_numbers_and_methods(tmp_path):
    with refusal("--experts", kind=UsageError):
        scale_grid(FULL, 5, 0)
    (tmp_path / "tune.yaml").write_text("no_method: {scaling_coef: [1]}\n")
    with refusal("no_method", kind=UsageError):
        scale_grid(tmp_path / "tune.yaml", 5, 4, tmp_path / "scaled.yaml")
    assert not (tmp_path / "scaled.yaml").exists()
