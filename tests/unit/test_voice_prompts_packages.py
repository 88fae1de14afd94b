"""Getting, checking and unpacking the packages of the voice prompts."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.server
import io
import re
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from cv_corpus import tone

from lors.bin import format_audio, prepare_voice_prompts
from lors.data.conversion import encode_flac
from lors.data.datadir import read_data_dir
from lors.data.voice_prompts import archives, corpus, download, read_russian
from lors.data.voice_prompts.archives import unpack
from lors.data.voice_prompts.download import get_packages
from lors.data.voice_prompts.packages import load_release
from lors.data.voice_prompts.read_russian import read_sentences
from lors.errors import UsageError
from tests.full_disk import largest_file
from tests.prompt_packages import (
    deb,
    encode_g722,
    sha256,
    small_prompts,
    spoken,
    tar,
    write_packages,
    write_read_russian,
)
from tests.refusal import refusal

NAME = "asterisk-core-sounds-fr-g722"
FILE = f"{NAME}_1-1_all.deb"


@pytest.fixture
def mirror(tmp_path):
    """A folder with the packages, and the list of them."""
    write_packages(tmp_path / "mirror", small_prompts())
    return tmp_path / "mirror"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


@pytest.fixture
def apt_get(tmp_path, monkeypatch):
    """Put a program apt-get, a shell script, on PATH."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "apt-get"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return write


@pytest.fixture
def no_apt_get(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@contextlib.contextmanager
def serving(handler):
    """Serve by this class of handlers; return the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/debian"
        running.shutdown()


@contextlib.contextmanager
def answering(answer, length=None):
    """Answer every request by ``answer(socket file)``, with a Content-Length; return the address.

    Without a length not even the head is sent.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if length is not None:
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
            with contextlib.suppress(ConnectionError):
                answer(self.wfile)

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield address


@pytest.fixture
def server(mirror):
    """Serve the packages as Debian's archive does; return the address and the paths asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.path = self.path.replace("/debian/pool/main/s/sounds", "")
            super().do_GET()

        def log_message(self, *_):
            pass

    with serving(functools.partial(Handler, directory=str(mirror))) as address:
        yield address, asked


def french(mirror):
    return load_release(mirror / "packages.yaml").languages["fr"].recordings


def prepare(folder, out, packages, *options, langs=("fr",)):
    arguments = ["--folder", str(folder), "--out", str(out), "--packages", str(packages)]
    nowhere = "http://127.0.0.1:9/debian"
    return prepare_voice_prompts.main(
        [*arguments, "--archive", nowhere, "--langs", *langs, *options]
    )


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- getting ------------------------------------------------------------------------------------


def test_apt_get_downloads_the_pinned_version_once(mirror, folder, apt_get, tmp_path):
    apt_get(f'cp "{mirror}/{FILE}" .')
    for _ in range(2):
        get_packages(folder, [french(mirror)], archive="http://127.0.0.1:9")
    [call] = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith(f"download {NAME}=1-1")
    assert left_in(folder) == [f"{NAME}_1-1", FILE]
    assert (folder / f"{NAME}_1-1/usr/share/asterisk/sounds/fr_CA_f_June/added.g722").is_file()


def test_without_apt_get_the_package_comes_by_its_address(mirror, folder, server, no_apt_get):
    address, asked = server
    get_packages(folder, [french(mirror)], archive=address + "/")
    assert asked == [f"/debian/pool/main/s/sounds/{FILE}"]
    assert (folder / FILE).read_bytes() == (mirror / FILE).read_bytes()


def test_apt_get_without_this_version_falls_back_to_the_address(mirror, folder, server, apt_get):
    apt_get(f"echo \"E: Version '1-1' for '{NAME}' was not found\" >&2; exit 100")
    get_packages(folder, [french(mirror)], archive=server[0])
    assert (folder / FILE).is_file()


def test_a_mirror_that_does_not_answer(mirror, folder, apt_get):
    apt_get(f"touch {FILE}.partial; echo 'E: Failed to fetch it  Could not connect' >&2; exit 100")
    with refusal(NAME, folder / FILE, "Failed to fetch it", "127.0.0.1:9", "apt-get update"):
        get_packages(folder, [french(mirror)], archive="http://127.0.0.1:9")
    assert left_in(folder) == []


def test_an_address_without_the_package(mirror, folder, server, no_apt_get):
    (mirror / FILE).unlink()
    with refusal(FILE, "404", "not on this system"):
        get_packages(folder, [french(mirror)], archive=server[0])
    assert left_in(folder) == []


def test_an_answer_that_does_not_end_is_cut(mirror, folder, server, no_apt_get):
    with (mirror / FILE).open("ab") as file:
        file.write(b"x" * 200_000)
    with refusal(FILE, f"more than {french(mirror).bytes} bytes"):
        get_packages(folder, [french(mirror)], archive=server[0])
    assert left_in(folder) == []


def test_an_answer_that_is_cut(mirror, folder, no_apt_get):
    content = (mirror / FILE).read_bytes()
    half = content[: len(content) // 2]
    sums = (french(mirror).sha256, sha256(half), f"{len(half)} of {len(content)} bytes")
    with (
        answering(lambda file: file.write(half), len(content)) as address,
        refusal(NAME, f"{address}/pool/main/s/sounds/{FILE}", *sums) as caught,
    ):
        get_packages(folder, [french(mirror)], archive=address)
    assert ".download.tmp" not in str(caught.value) and "remove" not in str(caught.value)
    assert left_in(folder) == []


def test_a_mirror_that_never_answers(mirror, folder, no_apt_get, monkeypatch):
    monkeypatch.setattr(download, "_PATIENCE", 0.2)
    end = threading.Event()
    with answering(lambda _: end.wait(20)) as address:
        with refusal(FILE, address, "timed out"):
            get_packages(folder, [french(mirror)], archive=address)
        end.set()
    assert left_in(folder) == []


def test_a_connection_that_stays_open(mirror, folder, no_apt_get, monkeypatch):
    """The package is whole, whether the mirror closes the connection or not."""
    monkeypatch.setattr(download, "_PATIENCE", 10)
    content, end = (mirror / FILE).read_bytes(), threading.Event()

    def answer(file):
        file.write(content)
        end.wait(20)

    with answering(answer, len(content)) as address:
        get_packages(folder, [french(mirror)], archive=address)
        end.set()
    assert (folder / FILE).read_bytes() == content


def test_a_slow_mirror_has_a_limit(mirror, folder, no_apt_get, monkeypatch):
    """It answers often enough, but would need hours."""
    monkeypatch.setattr(download, "_LONGEST", 0.3)

    def answer(file):
        for _ in range(250):
            file.write(b"x")
            time.sleep(0.02)

    with (
        answering(answer, french(mirror).bytes) as address,
        refusal(FILE, address, "0.3 seconds"),
    ):
        get_packages(folder, [french(mirror)], archive=address)
    assert left_in(folder) == []


def test_all_ways_have_one_limit(mirror, folder, server, apt_get, monkeypatch):
    monkeypatch.setattr(download, "_LONGEST", 0.3)
    apt_get("exec sleep 20")
    with refusal("0.3 seconds") as caught:
        get_packages(folder, [french(mirror)], archive=server[0])
    assert [problem.split(": ")[0] for problem in caught.value.got] == [
        "apt-get",
        f"{server[0]}/pool/main/s/sounds/{FILE}",
    ]
    assert left_in(folder) == []


@pytest.mark.parametrize("archive", ["no address", "ftp://127.0.0.1:9/debian", "http://"])
def test_a_wrong_address(mirror, folder, no_apt_get, archive):
    with refusal(FILE):
        get_packages(folder, [french(mirror)], archive=archive)
    assert left_in(folder) == []


def test_a_download_goes_on_where_it_stopped(mirror, folder, server, no_apt_get, tmp_path):
    voice = load_release(mirror / "packages.yaml").languages["fr"]
    hidden = (mirror / FILE).rename(tmp_path / "hidden")
    packages = [voice.transcripts, voice.recordings]
    with refusal(FILE):
        get_packages(folder, packages, archive=server[0])
    hidden.rename(mirror / FILE)
    get_packages(folder, packages, archive=server[0])
    assert [path.rsplit("/", 1)[1] for path in server[1]] == [voice.transcripts.file, FILE, FILE]


# --- checking -----------------------------------------------------------------------------------


def test_a_downloaded_package_with_a_wrong_sum(mirror, folder, apt_get):
    apt_get(f"echo other >{FILE}")
    sums = (french(mirror).sha256, f"SHA-256 {sha256(b'other' + bytes([10]))}")
    # Nothing is left to remove: the file of apt-get is gone.
    with refusal(NAME, *sums, "apt-get", "127.0.0.1:9", "elsewhere") as caught:
        get_packages(folder, [french(mirror)], archive="http://127.0.0.1:9")
    assert "remove" not in str(caught.value)
    assert left_in(folder) == []


def test_after_a_wrong_file_of_apt_get_comes_the_address(mirror, folder, server, apt_get):
    apt_get(f"echo other >{FILE}")
    get_packages(folder, [french(mirror)], archive=server[0])
    assert (folder / FILE).read_bytes() == (mirror / FILE).read_bytes()


def test_a_truncated_package_is_named_as_such(mirror, folder):
    content = (mirror / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: len(content) // 2])
    with refusal(folder / FILE, f"{len(content) // 2} of {len(content)} bytes", "remove"):
        get_packages(folder, [french(mirror)])
    assert left_in(folder) == [FILE]


def test_another_version_with_other_prompts(mirror, folder, tmp_path, capsys):
    """In a folder with unpacked content there is no package whose sum could be checked."""
    other = small_prompts()
    other.lists["fr"].append("new: nouveau")
    write_packages(tmp_path / "other", other)
    for package in (tmp_path / "other").glob("*.deb"):
        shutil.copytree(unpacked(package, tmp_path / "u"), folder, dirs_exist_ok=True)
    assert prepare(folder, tmp_path / "data", mirror / "packages.yaml") == 1
    message = capsys.readouterr().err
    facts = ("core-sounds-fr.txt.gz", "asterisk-core-sounds-fr 1-1", "SHA-256", "--packages")
    assert all(fact in message for fact in facts), message
    assert not (tmp_path / "data" / "fr" / "train").exists()
    # The list of packages of that version is the way to use it.
    assert prepare(folder, tmp_path / "data", tmp_path / "other" / "packages.yaml") == 0


def test_a_recording_that_was_changed(mirror, tmp_path, capsys):
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 0
    [path] = mirror.rglob("fr_CA_f_June/added.g722")
    path.write_bytes(b"other")
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 1
    message = capsys.readouterr().err
    assert all(fact in message for fact in (str(path.parent), NAME, "20 recordings"))
    # The folder to remove is that of the package, and removing it helps.
    package = mirror / f"{NAME}_1-1"
    assert re.search(rf"{re.escape(str(package))}(?!/|_)", message)
    shutil.rmtree(package)
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 0


def test_content_that_is_missing(mirror, tmp_path, capsys):
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 0
    package = mirror / f"{NAME}_1-1"
    shutil.rmtree(package / "usr/share/asterisk")
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 1
    message = capsys.readouterr().err
    assert message.count(str(package)) == 2  # the missing folder, and the one to remove
    assert re.search(rf"{re.escape(str(package))}(?!/|_)", message)
    shutil.rmtree(package)
    assert prepare(mirror, tmp_path / "data", mirror / "packages.yaml") == 0


def test_nothing_is_written_if_the_last_language_is_damaged(mirror, tmp_path, capsys):
    packages, langs = mirror / "packages.yaml", ["en", "ru"]
    assert prepare(mirror, tmp_path / "good", packages, langs=langs) == 0
    [path] = mirror.rglob("ru_RU_f_IvrvoiceRU/added.g722")
    path.write_bytes(b"other")
    assert prepare(mirror, tmp_path / "data", packages, langs=langs) == 1
    assert str(path.parent) in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_no_data_are_without_their_licence(mirror, tmp_path, monkeypatch):
    """The disk is full at the last language."""
    write = corpus.write_data_dirs

    def write_but_russian(directories):
        if any("ru" in path.parts for path in directories):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(directories)

    monkeypatch.setattr(corpus, "write_data_dirs", write_but_russian)
    out = tmp_path / "data"
    assert prepare(mirror, out, mirror / "packages.yaml", langs=["en", "ru"]) == 1
    assert (out / "en/train/wav.scp").is_file() and not (out / "ru/train").exists()
    assert (out / "LICENSE").is_file() and "IvrvoiceRU" in (out / "CREDITS").read_text()


def test_a_folder_without_the_content(mirror, folder, tmp_path, capsys):
    (folder / "usr").mkdir()  # so nothing is downloaded
    assert prepare(folder, tmp_path / "data", mirror / "packages.yaml") == 1
    message = capsys.readouterr().err
    assert "core-sounds-en.txt.gz" in message and str(folder) in message
    # The folder is the user's: nothing in it is to be removed.
    assert "remove" not in message and "--folder" in message and "db.sh" in message
    assert message.count("core-sounds-en.txt.gz") == 1


def test_a_list_of_packages_without_english(mirror):
    path = mirror / "packages.yaml"
    release = yaml.safe_load(path.read_text())
    del release["languages"]["en"]
    path.write_text(yaml.safe_dump(release))
    with refusal(path, "en", "es, fr, it, ru", kind=UsageError):
        load_release(path)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"name": "../x"}, ("../x",)),
        ({"version": "a/b"}, ("a/b",)),
        ({"folder": "pool/../.."}, ("..",)),
        ({"bytes": "many"}, ("bytes", "many")),
        ({"colour": "red"}, ("colour",)),
    ],
)
def test_a_wrong_list_of_packages(mirror, change, facts):
    path = mirror / "packages.yaml"
    release = yaml.safe_load(path.read_text())
    release["languages"]["fr"]["recordings"] |= change
    path.write_text(yaml.safe_dump(release))
    with refusal(path, *facts, kind=UsageError):
        load_release(path)


def test_the_pinned_list_names_five_languages_and_the_read_sentences():
    release = load_release()
    assert set(release.languages) == {"en", "es", "fr", "it", "ru"}
    sums = [p.sha256 for v in release.languages.values() for p in (v.transcripts, v.recordings)]
    sums.append(release.read_russian.sentences.sha256)
    assert len(set(sums)) == 11 and all(len(value) == 64 for value in sums)


# --- unpacking ----------------------------------------------------------------------------------


def unpacked(package, target):
    shutil.rmtree(target, ignore_errors=True)
    unpack(package, target)
    return target


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="compares with dpkg-deb")
def test_unpacking_gives_what_dpkg_gives(mirror, tmp_path):
    unpack(mirror / FILE, tmp_path / "own")
    subprocess.run(["dpkg-deb", "-x", mirror / FILE, tmp_path / "dpkg"], check=True)
    files = sorted(path.relative_to(tmp_path / "own") for path in (tmp_path / "own").rglob("*"))
    assert files == sorted(p.relative_to(tmp_path / "dpkg") for p in (tmp_path / "dpkg").rglob("*"))
    for file in files:
        if (tmp_path / "own" / file).is_file():
            assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "dpkg" / file).read_bytes()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="compares with dpkg-deb")
def test_packages_of_the_tests_have_the_layout_of_dpkgs(mirror, tmp_path):
    def content(package):
        listed = ["dpkg-deb", "--contents", package]
        lines = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
        return sorted((line[0], line.split()[-1]) for line in lines.splitlines())

    unpack(mirror / FILE, tmp_path / "tree")
    (tmp_path / "tree/DEBIAN").mkdir()
    (tmp_path / "tree/DEBIAN/control").write_text(
        f"Package: {NAME}\nVersion: 1-1\nArchitecture: all\nMaintainer: a\nDescription: b\n"
    )
    build = ["dpkg-deb", "--build", tmp_path / "tree", tmp_path / "theirs.deb"]
    subprocess.run(build, check=True, capture_output=True)
    assert content(mirror / FILE) == content(tmp_path / "theirs.deb")


@pytest.mark.parametrize("name", ["../outside", "usr/../../outside"])
def test_a_name_that_leads_outside(tmp_path, name):
    package = tmp_path / "x.deb"
    package.write_bytes(deb(tar({"fine": b"", name: b"bad"})))
    with refusal(package, "outside"):
        unpack(package, tmp_path / "deep" / "target")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.deb"]


def test_an_absolute_name_lies_below_the_target(tmp_path):
    package = tmp_path / "x.deb"
    package.write_bytes(deb(tar({"/etc/inside": b"good"})))
    unpack(package, tmp_path / "target")
    assert (tmp_path / "target" / "etc" / "inside").read_bytes() == b"good"


def test_a_link_that_leads_outside(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        member = tarfile.TarInfo("./link")
        member.type, member.linkname = tarfile.SYMTYPE, "../../elsewhere"
        archive.addfile(member)
    package = tmp_path / "x.deb"
    package.write_bytes(deb(buffer.getvalue()))
    with refusal(package, "link"):
        unpack(package, tmp_path / "target")
    assert left_in(tmp_path) == ["x.deb"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        b"!<arch>\n",
        deb(tar({"a": b"x" * 10_000}))[:-200],
        deb(b"not xz"),
        deb(b"zstd", "data.tar.zst"),
        deb(tar({"a": b""})).replace(b"`\n", b"??"),
    ],
)
def test_a_damaged_package(tmp_path, content):
    package = tmp_path / "x.deb"
    package.write_bytes(content)
    with refusal(package, "remove"):
        unpack(package, tmp_path / "target")
    assert left_in(tmp_path) == ["x.deb"]


def test_a_package_that_expands_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST", 10_000)
    package = tmp_path / "x.deb"
    package.write_bytes(deb(tar({"a": b"0" * 6000, "b": b"0" * 6000})))
    with refusal(package, "10000 bytes"):
        unpack(package, tmp_path / "target")
    assert left_in(tmp_path) == ["x.deb"]


@pytest.mark.parametrize(("step", "suffix"), [("download", ".deb"), ("unpack", ".gz")])
def test_no_space_leaves_nothing(
    mirror, folder, server, no_apt_get, monkeypatch, capsys, step, suffix
):
    """Files of one kind have no space; write() itself fails, after the file was made."""
    opened = Path.open

    def full(path, mode="r", *rest, **more):
        file = opened(path, mode, *rest, **more)
        if mode != "wb" or path.suffix != suffix:
            return file
        file.close()
        return opened(Path("/dev/full"), mode)

    monkeypatch.setattr(Path, "open", full)
    packages = mirror / "packages.yaml"
    code = prepare(folder, folder / "data", packages, "--archive", server[0])
    message = capsys.readouterr().err
    assert code == 1 and "No space left" in message and "free some space" in message
    place = folder / "asterisk-core-sounds-en_1-1"
    named = f"{place}_all.deb" if step == "download" else place
    assert f"where: {named}\n" in message
    assert all(name.endswith(".deb") for name in left_in(folder))


@pytest.mark.parametrize("step", ["download", "unpack"])
def test_files_that_are_written_in_part_are_removed(mirror, folder, server, no_apt_get, step):
    place = folder / FILE
    if step == "unpack":
        shutil.copy(mirror / FILE, folder)
        place = folder / f"{NAME}_1-1"
    with pytest.raises(OSError) as caught, largest_file(1000):
        get_packages(folder, [french(mirror)], archive=server[0])
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(place))
    assert left_in(folder) == ([] if step == "download" else [FILE])


# --- the Russian sentences ----------------------------------------------------------------------


LINES = [f'( ru_{number:04} "Сл+ово, номер {number}, ещ+ё." )' for number in range(1, 21)]


def test_read_sentences(tmp_path):
    path = tmp_path / "txt.done.data"
    path.write_text("\n".join([*LINES[:2], "( broken )", ""]), encoding="utf-8")
    texts, malformed = read_sentences(path)
    assert texts == {"ru_0001": "Слово номер 1 ещё.", "ru_0002": "Слово номер 2 ещё."}
    assert malformed == {3: "( broken )"}


def test_read_russian_is_a_corpus_of_its_own(mirror, tmp_path):
    sound = encode_flac(tone(16_000, 0.5))  # libsndfile knows it by its content
    sounds = {f"ru_{number:04}": sound for number in range(1, 20)}  # one is missing
    sounds["extra"] = sound
    packages = write_read_russian(mirror, [*LINES, "( no text )"], sounds)
    out = tmp_path / "data_read"
    assert prepare(mirror, out, packages, "--read_russian", langs=["ru"]) == 0
    kept = [utt for split in ("train", "dev", "test") for utt in read_data_dir(out / "ru" / split)]
    assert len(kept) == 19 and all(utt.translations == {} for utt in kept)
    assert {(utt.speaker, utt.gender, utt.duration) for utt in kept} == {("ru-nsh", "m", 0.5)}
    lines = (out / "ru" / "dropped.tsv").read_text().splitlines()[1:]
    assert sorted(line.split("\t")[1:3] for line in lines) == [
        ["-", "malformed_row"],
        ["extra", "no_transcript"],
        ["ru_0020", "no_recording"],
    ]
    assert (out / "LICENSE").is_file() and "nsh" in (out / "CREDITS").read_text()


def test_the_read_sentences_are_never_without_their_licence(mirror, tmp_path, monkeypatch):
    sounds = {f"ru_{number:04}": encode_flac(tone(16_000, 0.5)) for number in range(1, 21)}
    packages = write_read_russian(mirror, LINES, sounds)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(read_russian, "write_json", full)
    out = tmp_path / "data_read"
    assert prepare(mirror, out, packages, "--read_russian", langs=["ru"]) == 1
    assert (out / "ru/train/wav.scp").is_file()
    assert (out / "LICENSE").is_file() and "nsh" in (out / "CREDITS").read_text()


# --- speech -------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="speaks with espeak-ng")
def test_spoken_prompts_go_through_both_stages(tmp_path):
    """The whole way from packages to FLAC, with speech in five languages."""
    packages = write_packages(tmp_path / "in", small_prompts(), spoken)
    out, dump = tmp_path / "data", tmp_path / "dump"
    wide = ["--min_seconds", "0.1"]
    assert prepare(tmp_path / "in", out, packages, *wide, langs=["en", "es", "ru"]) == 0
    arguments = ["--data", str(out), "--dump", str(dump), "--langs", "en", "es", "ru"]
    assert format_audio.main([*arguments, "--splits", "train", "dev", "test"]) == 0
    for lang in ("en", "es", "ru"):
        for split in ("train", "dev", "test"):
            data, flac = read_data_dir(out / lang / split), read_data_dir(dump / lang / split)
            assert [utt.id for utt in flac] == [utt.id for utt in data]
            assert [utt.text for utt in flac] == [utt.text for utt in data]
            assert all(utt.wav.endswith(".flac") for utt in flac)


def test_the_encoder_of_the_tests_needs_two_samples_a_byte():
    assert len(encode_g722(np.zeros(1001, np.float32))) == 500
