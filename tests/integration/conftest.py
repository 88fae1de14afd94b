"""One run of the mini recipe at a smaller size, which all integration tests compare with."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.integration.recipe import OPTIONS, Ended, Recipe, write_configs
from tests.integration.slurm_cluster import Cluster, why_not
from tests.integration.tiny_s2t import make_base_of


@dataclass(frozen=True)
class Reference:
    """A finished experiment: its recipe directory and the output of its two commands."""

    recipe: Recipe
    data: Ended
    rest: Ended


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> tuple[Recipe, Ended]:
    """A recipe directory after stage 2, with a base model that knows its letters."""
    recipe = Recipe(tmp_path_factory.mktemp("reference") / "mini_covost")
    write_configs(recipe)
    data = recipe.run(*OPTIONS, "--stop_stage", "format")
    assert data.status == 0, data.stderr
    make_base_of(recipe)
    return recipe, data


@pytest.fixture(scope="session")
def reference(corpus) -> Reference:
    recipe, data = corpus
    rest = recipe.run(*OPTIONS)
    assert rest.status == 0, rest.stderr
    return Reference(recipe, data, rest)


@pytest.fixture(scope="session")
def cluster():
    """A Slurm of one machine that all tests share; each leaves it without jobs."""
    reason = why_not()
    if reason:
        pytest.skip(f"no Slurm here: {reason}")
    with Cluster() as running:
        yield running
