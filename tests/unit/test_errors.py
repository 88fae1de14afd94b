"""lors.errors: messages, exit codes and similar names."""

import time

import pytest

from lors.errors import (
    LorsError,
    UsageError,
    near_matches,
    pip_install,
    shortened,
    unknown_name,
)


def test_message_has_every_part_that_was_given():
    error = LorsError("no such tensor", where="a.pth", expected="x.w", got="", hint="see --help")
    assert str(error) == (
        "no such tensor\n  where: a.pth\n  expected: x.w\n  got: \n  what to do: see --help"
    )
    assert str(LorsError("no such tensor")) == "no such tensor"
    assert (error.what, error.where, error.hint) == ("no such tensor", "a.pth", "see --help")


def test_exit_codes():
    assert LorsError.exit_code == 1 and UsageError.exit_code == 2
    assert issubclass(UsageError, LorsError)


def test_packages_are_installed_for_the_interpreter_of_the_recipes():
    assert pip_install("lhotse") == '"$(utils/install.sh)" -m pip install lhotse'


def test_unknown_name_has_similar_names_and_all_valid_ones():
    error = unknown_name(
        "method", "averge", {"lors", "average", "task_arithmetic"}, where="--method"
    )
    assert type(error) is UsageError and error.where == "--method"
    assert "method" in error.what and "averge" in error.what
    assert "average, lors, task_arithmetic" in error.expected
    assert "average" in error.hint and "lors" not in error.hint


def test_unknown_name_suggests_only_similar_names():
    valid = ["ties1", "ties2", "lors"]
    assert unknown_name("method", "zzz", valid).hint is None
    hint = unknown_name("method", "ties", valid).hint
    assert "ties1" in hint and "ties2" in hint and "lors" not in hint


def test_similar_names_are_found_in_bounded_time():
    many = [f"lang{number}" for number in range(20_000)]
    began = time.process_time()
    assert "lang7" in near_matches("lang7", many)
    assert near_matches("lang" * 100_000, many) is None
    assert near_matches("lang7", ["lang7" * 100_000] * 1000) is None
    error = unknown_name("language", "lang-7", many)
    assert time.process_time() - began < 1
    assert len(str(error)) < 20_000 and "and 19000 more" in str(error)


def test_a_list_gets_a_line_for_each_item():
    assert str(LorsError("bad rows", got=["a", 2])) == "bad rows\n  got:\n    - a\n    - 2"


@pytest.mark.parametrize(
    ("items", "expected"),
    [([], []), ([1, 2], ["1", "2"]), ("abcd", ["a", "b", "and 2 more"])],
)
def test_a_long_list_is_shortened_and_the_rest_counted(items, expected):
    assert shortened(items, 2) == expected
