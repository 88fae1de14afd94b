"""lors.fileio: whole files or none, and markers that remember what work was made from."""

import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.fileio import (
    atomic_directory,
    atomic_write,
    file_digest,
    hash_of,
    locked,
    read_json,
    scratch_directory,
    write_json,
    write_text,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_writing_makes_parents_and_keeps_utf8_and_line_ends(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    write_text(path, "ü\nя\r\n")
    assert path.read_bytes() == "ü\nя\r\n".encode()
    with atomic_write(path, "wb") as handle:
        handle.write(b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    for before in ([], ["x.txt"]):
        with pytest.raises(error), atomic_write(path) as handle:
            handle.write("half")
            handle.flush()
            assert len(names(tmp_path)) == len(before) + 1  # not the file itself
            raise error
        assert names(tmp_path) == before
        write_text(path, "old")
    assert path.read_text() == "old"


def test_a_directory_appears_only_when_it_is_whole(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(KeyboardInterrupt), atomic_directory(out) as folder:
        (folder / "x").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path / "a") == []
    out.mkdir()  # an empty one is as good as none
    with atomic_directory(out) as folder:
        (folder / "x").write_text("whole")
        assert names(out) == []
    assert names(tmp_path / "a") == ["out"] and names(out) == ["x"]
    (tmp_path / "any").mkdir()
    assert out.stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("name", [".", "link"])
def test_an_empty_directory_by_another_name(tmp_path, monkeypatch, name):
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(place if name == "." else tmp_path)
    with atomic_directory(name) as temporary:
        (temporary / "file").write_text("whole")
    assert (place / "file").read_text() == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "place"]


def test_a_directory_is_never_written_over(tmp_path):
    write_text(tmp_path / "full" / "x", "old")
    write_text(tmp_path / "file", "old")
    for name, told in (("full", "with files"), ("file", "a file")):
        with pytest.raises(UsageError, match=told), atomic_directory(tmp_path / name):
            pytest.fail("not reached")
    assert (tmp_path / "full" / "x").read_text() == "old"
    assert names(tmp_path) == ["file", "full"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x", "")
        assert os.umask(mask) == mask  # unchanged by the writing
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_text(path, "old")
    code = (
        "import resource, signal, sys; from lors.fileio import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(sys.argv[1], 'x' * 100000)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert path.read_text() == "old" and names(tmp_path) == ["x"]


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "ü": "я"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "ü" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"score": value})
    assert names(tmp_path) == []


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(LorsError, match="file not found"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(LorsError, match="not valid JSON") as caught:
        read_json(tmp_path / "x.json")
    assert str(tmp_path / "x.json") in str(caught.value)


def test_hash_depends_on_values_and_not_on_order():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1, 2], [2, 1], "ü", "u"]
    assert len({hash_of(value) for value in different}) == len(different)
    # The same in every process, unlike Python's own hash().
    assert hash_of({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()[:16]


def test_file_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100000)
    assert file_digest(tmp_path / "x") == hashlib.sha256(b"abc" * 100000).hexdigest()


def test_done_marker(tmp_path):
    path = tmp_path / "work" / ".done"
    inputs = {"seed": 1, "langs": ("de", "es"), "config": tmp_path / "x.yaml"}
    assert not DoneMarker(path, inputs).is_done()
    DoneMarker(path, inputs).start()
    assert not DoneMarker(path, inputs).is_done()  # begun, interrupted, and to be done again
    DoneMarker(path, inputs).mark()
    assert DoneMarker(path, dict(reversed(inputs.items()))).is_done()
    assert names(path.parent) == [".done"]
    assert read_json(path)["hash"] == hash_of(read_json(path)["inputs"])


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
    with pytest.raises(LorsError, match="made with other settings") as caught:
        DoneMarker(tmp_path / ".done", inputs).is_done()
    assert str(caught.value.got).strip() == difference
    assert str(tmp_path) in str(caught.value)


def test_difference_of_nested_settings_names_what_differs(tmp_path):
    tokens = [f"token{number}" for number in range(600)]
    config = {"optim_conf": {"lr": 0.1, "eps": 1}, "token_list": tokens, "path": "x" * 90}
    DoneMarker(tmp_path / ".done", {"config": config}).mark()
    other = {**config, "optim_conf": {"lr": 0.2, "eps": 1}, "token_list": tokens[:-1]}
    with pytest.raises(LorsError) as caught:
        DoneMarker(tmp_path / ".done", {"config": {**other, "path": "y" * 90}}).is_done()
    lines = [line.strip() for line in caught.value.got.strip().splitlines()]
    assert lines[0] == "config.optim_conf.lr: 0.1 -> 0.2"
    assert lines[1] == f"config.path: {'x' * 90!r} -> {'y' * 90!r}"
    assert lines[2].startswith("config.token_list: [") and len(lines[2]) < 300 and len(lines) == 3


# --- killed processes, and several at once ------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from lors.done_marker import DoneMarker
from lors.fileio import atomic_directory, atomic_write, scratch_directory
place = Path(sys.argv[1])
with {block} as made:
    if hasattr(made, "write"):
        made.write("half a file, longer than the one that is to come")
        made.flush()
    elif made is not None:
        (made / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_within(block: str, place: Path) -> None:
    """Let a process be killed with SIGKILL in a ``with`` statement of :mod:`lors.fileio`."""
    done = subprocess.run([sys.executable, "-c", KILLED.format(block=block), place], timeout=60)
    assert done.returncode == -9


def test_the_next_writer_takes_over_what_a_killed_one_left(tmp_path):
    kill_within("atomic_write(place / 'x')", tmp_path)
    assert names(tmp_path) == [".x.tmp"]
    write_text(tmp_path / "x", "new")
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "new"


def test_directories_that_a_killed_process_left(tmp_path):
    kill_within("atomic_directory(place / 'out')", tmp_path)
    kill_within("scratch_directory(place / 'scratch')", tmp_path)
    assert names(tmp_path) == [".out.lock", ".out.tmp", "scratch"]
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "x").write_text("whole")
    with scratch_directory(tmp_path / "scratch") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["x"]


def test_work_of_a_killed_process_is_done_again(tmp_path):
    kill_within("DoneMarker(place / '.done', {'seed': 1}).work()", tmp_path)
    assert names(tmp_path) == [".done.lock", ".done.started"]
    marker = DoneMarker(tmp_path / ".done", {"seed": 1})
    assert not marker.is_done()
    with marker.work():
        assert names(tmp_path) == [".done.lock", ".done.started"]
    assert names(tmp_path) == [".done"] and marker.is_done()
    marker.start()  # as a process leaves it that is killed in mark()
    assert marker.is_done() and names(tmp_path) == [".done"]


def test_failed_work_is_not_done(tmp_path):
    marker = DoneMarker(tmp_path / ".done", {"seed": 1})
    with pytest.raises(ValueError), marker.work():
        raise ValueError
    assert names(tmp_path) == [".done.started"] and not marker.is_done()


def test_two_writers_of_one_file_wait_for_each_other(tmp_path):
    path = tmp_path / "x"
    texts = [str(number) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in texts and names(tmp_path) == ["x"]


def test_a_lock_is_for_one_process(tmp_path):
    path = tmp_path / "a" / ".lock"
    with locked(path):
        code = f"from lors.fileio import locked\nwith locked({str(path)!r}, 0.3): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 1 and "another process is at work here" in done.stderr
    assert names(path.parent) == []
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    with locked(path, 0):
        assert names(path.parent) == [".lock"]


def test_who_waits_for_a_lock_gets_it(tmp_path):
    """Also if who had it removed the file, and a third made it again."""
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / ".lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 60 and max(most) == 1 and names(tmp_path) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text(tmp_path / "x", "new")
    with locked(tmp_path / ".lock"):
        pass
    assert "has no locks" in caplog.text
    (tmp_path / ".x.tmp").unlink(missing_ok=True)
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "new"


def test_no_link_is_followed_to_a_file_of_somebody_else(tmp_path):
    write_text(tmp_path / "other", "theirs")
    (tmp_path / ".x.tmp").symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "other").read_text() == "theirs"
