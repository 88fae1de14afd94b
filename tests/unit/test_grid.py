"""``conf/tune.yaml``: the settings to try."""

import pytest
import yaml

from lors.errors import UsageError
from lors.models.whisper.conf import WhisperOptions
from lors.recipe.expdir import BASELINES
from lors.recipe.grid import read_grid
from lors.recipe.halving import Halving
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
    assert (grid.limit, grid.halving, grid.variants) == (None, None, {})
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


# --- variants, options of the plan, successive halving


def test_variants_name_their_method(tmp_path):
    content = """
    lors: {rank: [2, 6], scaling_coef: [0.3]}
    lors_paper: {method: lors, rank: [5], scaling_coef: [0.3, 0.5]}
    task_arithmetic+boost:
      - {method: task_arithmetic, boost: [0.3], scaling_coef: [0.3]}
      - {method: task_arithmetic, boost: [null], lines: [[0.5, 1.0]], scaling_coef: [0.4]}
    """
    path = grid_file(tmp_path, content)
    grid = read_grid(path)
    assert grid.variants == {"lors_paper": "lors", "task_arithmetic+boost": "task_arithmetic"}
    assert grid.points["lors_paper"] == tuple({"rank": 5, "scaling_coef": c} for c in (0.3, 0.5))
    assert grid.points["task_arithmetic+boost"] == (
        {"boost": 0.3, "scaling_coef": 0.3},
        {"lines": [0.5, 1.0], "scaling_coef": 0.4},
    )
    assert [grid.method(name) for name in grid.points] == ["lors", "lors", "task_arithmetic"]
    some = read_grid(path, ["lors_paper"])
    assert (list(some.points), some.variants) == (["lors_paper"], {"lors_paper": "lors"})


@pytest.mark.parametrize(
    ("grid", "fact"),
    [
        ({"method": 3, "rank": [1]}, "3"),
        ({"method": ["lors"], "rank": [1]}, "lors"),
        ([{"method": "lors", "rank": [1]}, {"rank": [2]}], "None"),
        ([{"method": "lors", "rank": [1]}, {"method": "svp", "rank": [2]}], "svp"),
        ({"method": "lors", "boost": 0.3}, "boost"),
    ],
)
def test_malformed_variant(tmp_path, grid, fact):
    with refusal("tune.yaml: mine", fact, kind=UsageError):
        read_grid(grid_file(tmp_path, {"mine": grid}))


@pytest.mark.parametrize("name", BASELINES)
def test_method_with_the_name_of_another_row(tmp_path, name):
    with refusal(f"tune.yaml: {name}", kind=UsageError):
        read_grid(grid_file(tmp_path, {name: {"method": "lors", "rank": [1]}}))


def test_all_dev_utterances(tmp_path):
    content = {"utterances_per_language": None, "lors": {"rank": [1]}}
    assert read_grid(grid_file(tmp_path, content)).limit is None


def test_halving(tmp_path):
    content = {"halving": {"first": 0.25, "keep": 0.5}, "lors": {"rank": [1]}}
    assert read_grid(grid_file(tmp_path, content)).halving == Halving(0.25, 0.5)


def test_options_of_inference_on_dev(tmp_path):
    config = tmp_path / "inference.yaml"
    config.write_text("batch_size: 7\ndtype: float32\n")
    content = {"inference": {"dtype": "fast"}, "lors": {"rank": [1]}}
    grid = read_grid(grid_file(tmp_path, content))
    assert [*grid.points] == ["lors"]
    assert grid.options_from(config, WhisperOptions) == WhisperOptions(batch_size=7, dtype="fast")
    plain = read_grid(grid_file(tmp_path, {"lors": {"rank": [1]}}))
    assert plain.options_from(config, WhisperOptions) == WhisperOptions(
        batch_size=7, dtype="float32"
    )


@pytest.mark.parametrize("option", [{"dtype": "int8"}, {"width": 3}])
def test_wrong_options_of_inference_on_dev(tmp_path, option):
    """The error names the file and what the grid has in place of it."""
    config = tmp_path / "inference.yaml"
    config.write_text("batch_size: 7\n")
    grid = read_grid(grid_file(tmp_path, {"inference": option, "lors": {"rank": [1]}}))
    with refusal(config, str(option), *option, kind=UsageError):
        grid.options_from(config, WhisperOptions)


@pytest.mark.parametrize("inference", [True, "fast", ["dtype"], None])
def test_malformed_options_of_inference_on_dev(tmp_path, inference):
    with refusal("tune.yaml: inference", kind=UsageError):
        read_grid(grid_file(tmp_path, {"inference": inference, "lors": {"rank": [1]}}))


@pytest.mark.parametrize(
    "halving",
    [True, 0.5, {}, {"first": 0.5}, {"first": 0, "keep": 0.5}, {"first": 0.5, "keep": 1}, [0.5]],
)
def test_malformed_halving(tmp_path, halving):
    with refusal("tune.yaml: halving", kind=UsageError):
        read_grid(grid_file(tmp_path, {"halving": halving, "lors": {"rank": [1]}}))
