"""``conf/tune.yaml``: the settings to try."""

import pytest
import yaml

from lors.errors import UsageError
from lors.recipe.grid import read_grid
from tests.refusal import refusal


def grid_file(tmp_path, content):
    path = tmp_path / "tune.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return path


def test_grid_is_the_product_of_its_lists(tmp_path):
    content = {
        "utterances_per_language": 60,
        "average": {"scaling_coef": [1.0]},
        "lors": {"rank": [2, 6], "density": [0.2], "scaling_coef": [0.3, 0.5]},
    }
    grid = read_grid(grid_file(tmp_path, content))
    assert grid.limit == 60
    assert grid.points["average"] == ({"scaling_coef": 1.0},)
    assert grid.points["lors"] == tuple(
        {"rank": rank, "density": 0.2, "scaling_coef": coef}
        for rank in (2, 6)
        for coef in (0.3, 0.5)
    )


def test_grid_as_a_list_of_grids(tmp_path):
    content = "lors:\n- {rank: [2], scaling_coef: [0.3, 0.5]}\n- {rank: [6], scaling_coef: [1]}\n"
    grid = read_grid(grid_file(tmp_path, content))
    assert grid.limit is None
    assert grid.points["lors"] == (
        {"rank": 2, "scaling_coef": 0.3},
        {"rank": 2, "scaling_coef": 0.5},
        {"rank": 6, "scaling_coef": 1},
    )


def test_methods_get_the_same_budget(tmp_path):
    content = {
        "average": {"scaling_coef": [1.0]},  # nothing to choose
        "task_arithmetic": {"scaling_coef": [0.1, 0.2, 0.3]},
        "lors": {"rank": [2, 6], "scaling_coef": [0.1, 0.2]},
    }
    with refusal("tune.yaml", kind=UsageError) as caught:
        read_grid(grid_file(tmp_path, content))
    assert caught.value.got == ["task_arithmetic: 3", "lors: 4"]


@pytest.mark.parametrize(
    "grid",
    [0.3, None, "scaling_coef", {"rank": 3}, {"rank": []}, {"rank": {"a": 1}}, [], [[3]], [{}, 3]],
)
def test_malformed_grid(tmp_path, grid):
    with refusal("tune.yaml: lors", kind=UsageError):
        read_grid(grid_file(tmp_path, {"lors": grid}))


def test_number_of_points_is_counted_before_they_are_made(tmp_path):
    eight = {f"p{number}": list(range(40)) for number in range(8)}
    with refusal("tune.yaml: lors", 40**8, 10_000, kind=UsageError):
        read_grid(grid_file(tmp_path, {"lors": eight}))
    most = {"rank": list(range(100)), "scaling_coef": list(range(100))}
    assert len(read_grid(grid_file(tmp_path, {"lors": most})).points["lors"]) == 10_000
    with refusal("tune.yaml: lors", 10_001, kind=UsageError):
        read_grid(grid_file(tmp_path, {"lors": [most, {"rank": [1]}]}))


@pytest.mark.parametrize("method", ["../lors", "", "a b", "..", 3, "x" * 300])
def test_method_that_cannot_be_a_file_name(tmp_path, method):
    with refusal("tune.yaml", str(method)[:30], kind=UsageError):
        read_grid(grid_file(tmp_path, {method: {"rank": [1]}}))


@pytest.mark.parametrize("limit", [0, -1, 2.5, "all", True])
def test_wrong_number_of_utterances(tmp_path, limit):
    content = {"utterances_per_language": limit, "lors": {"rank": [1]}}
    with refusal("tune.yaml: utterances_per_language", limit, kind=UsageError):
        read_grid(grid_file(tmp_path, content))


def test_some_of_the_methods(tmp_path):
    path = grid_file(tmp_path, {"average": {"scaling_coef": [1.0]}, "lors": {"rank": [2]}})
    assert list(read_grid(path, ["lors"]).points) == ["lors"]
    with refusal(path, "losr", "did you mean lors", kind=UsageError):
        read_grid(path, ["average", "losr"])
