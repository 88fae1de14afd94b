"""lors.fileio: complete files or none, and one process at a time."""

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

from lors.errors import UsageError
from lors.fileio import (
    atomic_directory,
    atomic_write,
    file_digest,
    full_disk_names,
    hash_of,
    locked,
    path_component,
    read_json,
    read_json_object,
    replace_link,
    scratch_directory,
    write_json,
    write_text,
)
from tests.full_disk import largest_file
from tests.refusal import refusal
from tests.unit.killed import kill_within


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


def test_text_that_is_not_utf8_is_refused_and_leaves_nothing(tmp_path):
    with refusal(tmp_path / "x.txt", "udcff"):
        write_text(tmp_path / "x.txt", "a name \udcff")
    assert names(tmp_path) == []


def test_full_disk_is_told_with_the_file(tmp_path):
    """A limit of file sizes stands for the full disk."""
    code = "import resource, sys; from lors.fileio import write_text;"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
    code += "write_text(sys.argv[1], 'x' * 2000)"
    path = tmp_path / "x.txt"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert f"OSError: [Errno 27] File too large: '{path}'" in done.stderr
    assert names(tmp_path) == []


def test_a_plain_write_to_a_full_disk_gets_a_name(tmp_path):
    with pytest.raises(OSError) as caught, largest_file(1000), full_disk_names("their/name"):
        (tmp_path / "part").write_bytes(b"x" * 2000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "their/name")
    with pytest.raises(FileNotFoundError) as caught, full_disk_names("their/name"):
        (tmp_path / "nothing").read_bytes()
    assert caught.value.filename == str(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["de", "sv-SE", "ä.b_c", "a|b", "می\u200cخواهم", ".x", "x" * 240])
def test_names_that_become_paths(name):
    assert path_component(name, "--langs") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../de", "/etc", "de/", "a b", " de", "de\n", "a\tb", "a\0b", "a\x1bb",
     "\udcff", "x" * 241, "ä" * 121, None, 3, ["de"]],
)  # fmt: skip
def test_names_that_cannot_be_a_file_name(name):
    with refusal("--langs", kind=UsageError):
        path_component(name, "--langs", UsageError)
    with refusal("index.json"):
        path_component(name, "index.json")


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"{", b"1" * 9999]
)
def test_content_that_is_not_json(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with refusal(tmp_path / "x.json"):
        read_json(tmp_path / "x.json")


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]


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
    out.mkdir()  # an empty directory may be there
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
    for name in ("full", "file"):
        with refusal(tmp_path / name, kind=UsageError), atomic_directory(tmp_path / name):
            pytest.fail("the directory was made")
    assert (tmp_path / "full" / "x").read_text() == "old"
    assert names(tmp_path) == ["file", "full"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "x", "")
        assert os.umask(mask) == mask  # writing does not change it
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
    path = tmp_path / "x.json"
    with refusal(path):
        read_json(path)
    path.write_text('{"a": ')
    with refusal(path, "line 1"):
        read_json(path)
    path.write_text("[1]")
    assert read_json(path) == [1]
    with refusal(path, "[1]"):
        read_json_object(path)


def test_a_link_is_replaced(tmp_path):
    link = tmp_path / "link"
    for target in ("one", "two", Path("three/four"), "three/four"):
        replace_link(link, target)
        assert link.readlink() == Path(target)
    link.unlink()
    link.write_text("a file")
    replace_link(link, "one")
    assert link.readlink() == Path("one") and names(tmp_path) == ["link"]


def test_hash_depends_on_values_and_not_on_order():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1, 2], [2, 1], "ü", "u"]
    assert len({hash_of(value) for value in different}) == len(different)
    # Equal in every process, unlike Python's own hash().
    assert hash_of({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()[:16]


def test_file_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100000)
    assert file_digest(tmp_path / "x") == hashlib.sha256(b"abc" * 100000).hexdigest()


# --- killed processes, and several at once ------------------------------------------------------


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
        assert done.returncode == 1 and "LorsError" in done.stderr
        assert str(path) in done.stderr
    assert names(path.parent) == []
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    with locked(path, 0):
        assert names(path.parent) == [".lock"]


def test_waiting_processes_get_the_lock(tmp_path):
    """The first process removes the lock file, and a third may make it again."""
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
    assert str(tmp_path) in caplog.text
    (tmp_path / ".x.tmp").unlink(missing_ok=True)
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "new"


def test_no_link_is_followed_to_a_file_of_somebody_else(tmp_path):
    write_text(tmp_path / "other", "theirs")
    (tmp_path / ".x.tmp").symlink_to("other")
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "x", "new")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "other").read_text() == "theirs"
