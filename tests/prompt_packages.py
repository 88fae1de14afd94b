"""Small packages of voice prompts in the layout of Debian's, with the traps of the real lists.

The recordings are of noise by default; :func:`spoken` makes them with espeak-ng.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
import soxr
import yaml

BYTES_A_SECOND = 8000
VOICES = {
    "en": ("en_US_f_Allison", "Allison", "f"),
    "es": ("es_MX_f_Allison", "Allison", "f"),
    "fr": ("fr_CA_f_June", "June", "f"),
    "it": ("it_IT_m_Carlo", "Carlo", "m"),
    "ru": ("ru_RU_f_IvrvoiceRU", "IvrvoiceRU", "f"),
}
COPYRIGHT = """\
Format: http://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2003-2010, the speaker of English
Comment: Recorded by the speaker of English
License: CC-BY-SA-3.0

Files: it-*
Copyright: 2012, the speaker of Italian
License: CC-BY-3.0

Files: debian/*
Copyright: 2010, the packager
License: GPL-2+

License: CC-BY-SA-3.0
 THE WORK IS PROVIDED UNDER THE TERMS OF THIS LICENSE.
"""
# name -> the texts in en, es, fr, it, ru. The splits of the names: five and more of train, two and
# more of dev and test.
TEXTS = {
    "activated": ("Activated.", "Activado", "activé", "Attivato.", "Активировано"),
    "agent-user": (
        "Enter the code.",
        "Marque su numero",
        "Entrez le code",
        "Digita",
        "Введите код",
    ),
    "conf-full": ("The room is full.", "Ya esta llena", "Pleine.", "? piena", "Мест нет"),
    "hello-world": ("Hello world.", "Hola Mundo!", "Salut", "Ciao mondo.", "Здравствуй, мир."),
    "vm-deleted": ("Message deleted.", "Borrado.", "Effacé.", "Cancellato.", "Удалено."),
    "vm-saved": ("saved", "guardado", "conservé", "salvato", "Сохранено"),
    "removed": ("Removed.", "Quitado", "Enleve", "Rimosso.", "Удален."),
    "queue-thankyou": ("Thank you", "Gracias", "Merci.", "Grazie", "благодарим"),
    "tt-weasels": ("Weasels ate it", "Las comadrejas", "Des fouines", "Le donnole", "Съели совы"),
    "vm-message": ("message", "mensaje", "message", "messaggio", "сообщение"),
    "please-try-again": ("Try again.", "De nuevo.", "Encore.", "Riprova.", "Еще раз."),
    "added": ("Added.", "Agregado", "ajouté", "Aggiunto.", "Добавлено"),
    "transfer": ("Please hold.", "Por favor espere", "Patientez", "Non pu?", "ожидайте"),
    "hours": ("hours", "horas", "heures", "ore", "часов"),
    "digits/h-2": ("second", "segundo", "deuxième", "secondo", "второй"),
    "second": ("second", "segundo", "seconde", "secondo", "секунда"),
}
TRAPS = (
    "beep: [this is a simple beep tone]",
    "silence/1: (1 second of silence)",
    "letters/a: a",
    "spy-iax2: IAX (note: does not say 2)",
)


@dataclass
class Prompts:
    """The prompts of all languages, to be changed and written.

    Attributes:
        lists: language -> the lines of its list.
        seconds: language -> name -> length of the recording in seconds.
    """

    lists: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)


def small_prompts() -> Prompts:
    """Return the prompts of TEXTS, with the lines of TRAPS."""
    prompts = Prompts()
    for column, lang in enumerate(VOICES):
        lines = [f"{name}: {texts[column]}" for name, texts in TEXTS.items()]
        prompts.lists[lang] = [f"; Prompts in {lang}", "", *lines, *TRAPS]
        names = [*TEXTS, *(trap.split(":")[0] for trap in TRAPS)]
        prompts.seconds[lang] = dict.fromkeys(names, 0.5)
    return prompts


def noise(lang: str, text: str, seconds: float) -> bytes:
    """Return G.722 of this length; the bytes are valid, whatever they are."""
    generator = np.random.default_rng(abs(hash((lang, text))) % 2**32)
    return generator.bytes(round(seconds * BYTES_A_SECOND))


def spoken(lang: str, text: str, seconds: float) -> bytes:
    """Return the text spoken by espeak-ng, in G.722, of its own length."""
    del seconds
    command = ["espeak-ng", "-v", lang, "--stdin", "--stdout"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    return encode_g722(soxr.resample(samples, rate, 16_000))


def encode_g722(samples: np.ndarray) -> bytes:
    """Encode 16 kHz mono samples in [-1, 1] as G.722, two samples a byte."""
    import av

    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 16_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(pcm[None, : len(pcm) // 2 * 2], format="s16", layout="mono")
    frame.sample_rate = 16_000
    return b"".join(bytes(packet) for packet in encoder.encode(frame) + encoder.encode(None))


def write_packages(
    folder: Path, prompts: Prompts, sound: Callable[[str, str, float], bytes] = noise
) -> Path:
    """Write the packages of all languages to `folder`; return the list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    languages = {}
    for lang, (voice, speaker, gender) in VOICES.items():
        name = f"asterisk-core-sounds-{lang}"
        documents, sounds = f"usr/share/doc/{name}", f"usr/share/asterisk/sounds/{voice}"
        text = "\n".join(prompts.lists[lang]).encode()
        texts = dict(line.split(": ", 1) for line in prompts.lists[lang] if ": " in line)
        recordings = {
            f"{prompt}.g722": sound(lang, texts.get(prompt, ""), seconds)
            for prompt, seconds in prompts.seconds[lang].items()
        }
        list_files = {
            f"{documents}/copyright": COPYRIGHT.encode(),
            f"{documents}/core-sounds-{lang}.txt.gz": gzip.compress(text, mtime=0),
        }
        sound_files = {f"{sounds}/{file}": content for file, content in recordings.items()}
        languages[lang] = {
            "voice": voice,
            "speaker": speaker,
            "gender": gender,
            "transcripts": write_package(folder, name, list_files, sha256(text)),
            "recordings": write_package(folder, f"{name}-g722", sound_files, listed(recordings)),
        }
    path = folder / "packages.yaml"
    path.write_text(yaml.safe_dump({"languages": languages}), encoding="utf-8")
    return path


def write_read_russian(folder: Path, lines: list[str], sounds: Mapping[str, bytes]) -> Path:
    """Write the package of the Russian sentences and ``read.yaml``, which names it too."""
    voice = "msu_ru_nsh_clunits"
    root = f"usr/share/festival/voices/russian/{voice}"
    files = {"etc/txt.done.data": "\n".join(lines).encode()}
    files |= {f"wav/{name}.wav": content for name, content in sounds.items()}
    placed = {f"{root}/{name}": content for name, content in files.items()}
    placed["usr/share/doc/festvox-ru/copyright"] = COPYRIGHT.encode()
    package = write_package(folder, "festvox-ru", placed, listed(files))
    release = yaml.safe_load((folder / "packages.yaml").read_text(encoding="utf-8"))
    release["read_russian"] = {
        "voice": voice, "speaker": "nsh", "gender": "m", "sentences": package,
    }  # fmt: skip
    path = folder / "read.yaml"
    path.write_text(yaml.safe_dump(release), encoding="utf-8")
    return path


def write_package(
    folder: Path, name: str, files: Mapping[str, bytes], contents: str
) -> dict[str, object]:
    """Write a package of version 1-1; return its entry in the list of packages."""
    content = deb(tar(files))
    (folder / f"{name}_1-1_all.deb").write_bytes(content)
    return {
        "name": name,
        "version": "1-1",
        "folder": "pool/main/s/sounds",
        "bytes": len(content),
        "sha256": sha256(content),
        "contents": contents,
    }


def deb(data: bytes, name: str = "data.tar.xz") -> bytes:
    """Return a Debian package with this ``data.tar.xz``."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": tar({}), name: data}
    archive = b"!<arch>\n"
    for member, content in members.items():
        head = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += head + content + b"\n" * (len(content) % 2)
    return archive


def tar(files: Mapping[str, bytes]) -> bytes:
    """Return an xz-compressed tar archive of files and their folders, as dpkg writes it.

    Names begin with ``./``, and a folder comes before its content. A name that leads outside is as
    it is, without folders.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=0) as archive:
        inside = {name for name in files if not name.startswith("/") and ".." not in name}
        parents = {parent for name in inside for parent in PurePosixPath(name).parents}
        for parent in sorted(parents | {PurePosixPath()}):
            member = tarfile.TarInfo("./" if parent == PurePosixPath() else f"./{parent}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}" if name in inside else name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def listed(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of the list of these files, as ``sha256sum`` prints it."""
    lines = [f"{sha256(files[name])}  {name}\n" for name in sorted(files)]
    return sha256("".join(lines).encode())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
