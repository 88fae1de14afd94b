"""lors.done_marker: finished work is found, and work of other settings is refused."""

import pytest

from lors.done_marker import DoneMarker
from lors.fileio import hash_of, read_json
from tests.refusal import refusal
from tests.unit.killed import kill_within


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_done_marker(tmp_path):
    path = tmp_path / "work" / ".done"
    inputs = {"seed": 1, "langs": ("de", "es"), "config": tmp_path / "x.yaml"}
    assert not DoneMarker(path, inputs).is_done()
    DoneMarker(path, inputs).start()
    assert not DoneMarker(path, inputs).is_done()  # interrupted
    DoneMarker(path, inputs).mark()
    assert DoneMarker(path, dict(reversed(inputs.items()))).is_done()
    assert names(path.parent) == [".done"]
    assert read_json(path)["hash"] == hash_of(read_json(path)["inputs"])


def test_infinite_settings_are_recorded_and_compared(tmp_path):
    def marker(value):
        return DoneMarker(tmp_path / ".done", {"config": {"grad_clip": value}})

    marker(float("inf")).start()
    marker(float("inf")).mark()
    assert marker(float("inf")).is_done()
    for other in (float("-inf"), 5.0):
        with refusal("config.grad_clip", "Infinity"):
            marker(other).is_done()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("inputs", "difference"),
    [
        ({"seed": 2, "lr": 0.1}, "seed: 1 -> 2"),
        ({"seed": 1}, "lr: 0.1 -> None"),
        ({"seed": 1, "lr": 0.1, "new": "x"}, "new: None -> 'x'"),
        ({"seed": 1, "lr": {"first": 1}}, "lr: 0.1 -> {'first': 1}"),
    ],
)
def test_done_marker_of_other_work_is_refused_with_the_difference(
    tmp_path, inputs, difference, finished
):
    marker = DoneMarker(tmp_path / ".done", {"seed": 1, "lr": 0.1})
    marker.start()
    if finished:
        marker.mark()
    with refusal(tmp_path) as caught:
        DoneMarker(tmp_path / ".done", inputs).is_done()
    assert caught.value.got == [difference]


def test_difference_of_nested_settings_names_what_differs(tmp_path):
    tokens = [f"token{number}" for number in range(600)]
    config = {"optim_conf": {"lr": 0.1, "eps": 1}, "token_list": tokens, "path": "x" * 90}
    DoneMarker(tmp_path / ".done", {"config": config}).mark()
    other = {**config, "optim_conf": {"lr": 0.2, "eps": 1}, "token_list": tokens[:-1]}
    with refusal() as caught:
        DoneMarker(tmp_path / ".done", {"config": {**other, "path": "y" * 90}}).is_done()
    lines = caught.value.got
    assert lines[0] == "config.optim_conf.lr: 0.1 -> 0.2"
    assert lines[1] == f"config.path: {'x' * 90!r} -> {'y' * 90!r}"
    assert lines[2].startswith("config.token_list: [") and len(lines[2]) < 300 and len(lines) == 3


def test_work_of_a_killed_process_is_done_again(tmp_path):
    kill_within("DoneMarker(place / '.done', {'seed': 1}).work()", tmp_path)
    assert names(tmp_path) == [".done.lock", ".done.started"]
    marker = DoneMarker(tmp_path / ".done", {"seed": 1})
    assert not marker.is_done()
    with marker.work():
        assert names(tmp_path) == [".done.lock", ".done.started"]
    assert names(tmp_path) == [".done"] and marker.is_done()
    marker.start()  # the state after a kill in mark()
    assert marker.is_done() and names(tmp_path) == [".done"]


@pytest.mark.parametrize("name", [".done", ".done.started"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"inputs": 1}', b"[" * 100_000])
def test_damaged_marker_is_told_with_the_way_out(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (DoneMarker(tmp_path / ".done", {}).is_done, lambda: DoneMarker.progress(path)):
        with refusal(path, "remove it"):
            read()


def test_failed_work_is_not_done(tmp_path):
    marker = DoneMarker(tmp_path / ".done", {"seed": 1})
    with pytest.raises(ValueError), marker.work():
        raise ValueError
    assert names(tmp_path) == [".done.started"] and not marker.is_done()
