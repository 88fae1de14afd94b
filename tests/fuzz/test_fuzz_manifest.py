"""Strange and damaged manifests, and folders of datasets: every row is kept once or listed."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from lors.data.datadir import one_line, read_data_dir, validate_data_dir
from lors.data.manifest import prepare_manifest
from lors.errors import LorsError
from tests.fuzz.corpora import refused_or_done, strange_text, tree
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.test_manifest import PACKAGES, write_wav

SPLITS = ("train", "dev", "test")
COLUMNS = ("audio", "lang", "text", "split", "id", "speaker", "translation", "duration", "gender")
CLIPS = [f"c{number}.wav" for number in range(24)]
OTHER_VALUES = {
    "audio": ("", " ", "/", ".", "..", "none.wav", "../x", "sox x |", "| x", "-", "c1.wav:5",
              "x.ark:12", "c1.wav\0", "x" * 300, "c1.wav ", "/dev/null", "/etc/passwd"),
    "lang": ("", "dee", "de ", "../de", "DE", "nb", "jv", "sv-SE", "x" * 300),
    "text": ("", " ", '"', "NA"),
    "split": ("", "Train", "validation", "trian", "../x", "test "),
    "id": ("", " ", "?", "../x", "a", "a", "-", "x" * 300),
    "speaker": ("", " ", "?", "../x", "s-1", "s_1"),
    "translation": ("", " "),
    "duration": ("", "0", "-1", "nan", "inf", "1e999", "3", "0,1", "x", "9" * 400),
    "gender": ("", "f", "M", "non-binary", "?", "do_not_wish_to_say"),
    "offset": ("", "0", "0.02", "-1", "nan", "9", "x"),
    "end": ("", "0.05", "0", "nan", "9", "0.1"),
}  # fmt: skip


@pytest.fixture
def corpus(folder):
    for name in CLIPS:
        write_wav(folder / "corpus" / name)
    return folder


def good_rows(rng, count):
    clips = rng.sample(CLIPS, count)
    rows = []
    for number, clip in enumerate(clips):
        split = SPLITS[number % 3]
        rows.append(
            {
                "audio": clip,
                "lang": "de",
                "text": f"Satz {number}",
                "split": split,
                "id": f"i{number}",
                "speaker": f"s{number % 5}",
                "translation": "x",
                "duration": "0.1",
                "gender": "f",
            }
        )
    if rng.random() < 0.3:
        for row in rows:
            row |= {"offset": "", "end": ""}
    dropped = rng.sample(COLUMNS[4:], rng.choice((0, 0, 2, 4)))
    return [{k: v for k, v in row.items() if k not in dropped} for row in rows]


def strange_rows(rng):
    rows = good_rows(rng, rng.choice((9, 15, 24)))
    for row in rows:
        while rng.random() < 0.15:
            name = rng.choice(list(row))
            row[name] = rng.choice(OTHER_VALUES[name]) if rng.random() < 0.7 else strange_text(rng)
    return rows


def as_tsv(rng, rows):
    return "\n".join("\t".join(row) for row in ([*rows[0]], *(row.values() for row in rows))) + "\n"


def as_csv(rng, rows):
    buffer = io.StringIO()
    separator = ";" if rng.random() < 0.03 else ","
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(buffer, delimiter=separator, quoting=quoting)
    writer.writerows([[*rows[0]], *(row.values() for row in rows)])
    return buffer.getvalue()


def as_jsonl(rng, rows):
    lines = []
    for row in rows:
        value = mutated_value(rng, row) if rng.random() < 0.1 else row
        value = value if rng.random() > 0.03 else rng.choice(([], 1, None, {}, "x"))
        try:
            line = json.dumps(value, ensure_ascii=rng.random() < 0.5)
        except (TypeError, ValueError):
            line = "{"
        if rng.random() < 0.02:
            line = rng.choice(
                ('{"a":' * 3000, "[" * 100_000, '{"a": 1, "a": 2}', '{"text": "\\ud800"}')
            )
        lines.append(line)
    return "\n".join(lines) + "\n"


KINDS = {"tsv": as_tsv, "csv": as_csv, "jsonl": as_jsonl}


def lines_of(content, kind):
    """The numbers of the lines with a row."""
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n")
    full = [number for number, text in enumerate(lines, 1) if text.strip()]
    return full if kind == "jsonl" else full[1:]


def listed_lines(out, name):
    """The numbers of the lines that the lists of bad rows name."""
    found = set()
    for path in out.rglob("dropped.tsv"):
        for line in path.read_text(encoding="utf-8").split("\n")[1:]:
            detail = line.split("\t")[-1]
            if number := re.match(rf"{name} line (\d+): ", detail):
                found.add(int(number[1]))
    return found


def nothing_outside(folder, before, after):
    assert all(after.get(name) == content for name, content in before.items())
    written = {name for name in after if name not in before}
    assert all(name.startswith("out/") for name in written)
    assert not [name for name in written if name.endswith((".tmp", ".lock"))]


@pytest.mark.parametrize("kind", KINDS)
def test_manifests(corpus, request, kind):
    for rng in seeds(request, 120):
        rows = strange_rows(rng)
        content = KINDS[kind](rng, rows).encode("utf-8", "surrogatepass")
        exact = rng.random() < 0.7
        if rng.random() < 0.1:
            content = b"\xef\xbb\xbf" + content
        if not exact:
            content = mutated_bytes(rng, content)
        manifest = corpus / f"corpus/own.{kind}"
        manifest.write_bytes(content)
        before, outcome, reports = tree(corpus), {}, []
        strict = rng.random() < 0.3
        with refused_or_done(outcome):
            reports = prepare_manifest(manifest, corpus / "out", strict=strict)
        nothing_outside(corpus, before, tree(corpus))
        if outcome["error"]:
            assert not list((corpus / "out").rglob("wav.scp"))
        else:
            check(corpus / "out", manifest, kind, content, reports, rows if exact else [], strict)
        shutil.rmtree(corpus / "out", ignore_errors=True)


def check(out, manifest, kind, content, reports, rows, strict):
    """Check a corpus that was written; `rows` are its rows, if they are known."""
    kept = []
    for report in reports:
        for split in SPLITS:
            path = out / report["lang"] / split
            assert validate_data_dir(path, check_audio=True) == []
            utterances = read_data_dir(path)
            assert len(utterances) == report["splits"][split]["clips"]
            kept += utterances
    listed = listed_lines(out, manifest.name)
    assert not (strict and listed)
    assert len(kept) + len(listed) == len(lines_of(content, kind))
    counts = Counter(row["audio"] for row in rows)
    texts = {row["audio"]: row["text"] for row in rows if counts[row["audio"]] == 1}
    if kind != "jsonl":  # its rows are changed after they are made
        for utterance in kept:
            name = Path(utterance.wav).name
            if name in texts:
                assert utterance.text == one_line(texts[name])


FEATURES = {"gender": {"names": ["male", "female"], "_type": "ClassLabel"}}


def write_dataset(folder, arrow):
    for number, split in enumerate(SPLITS):
        part = folder / split
        part.mkdir(parents=True)
        audio = [
            {"bytes": b"RIFF", "path": f"x.{rest}"} for rest in ("wav", "a b", "wav\0", "x" * 99)
        ]
        table = arrow.table(
            {
                "audio": audio,
                "text": [f"Satz {number}"] * 4,
                "lang": ["de"] * 4,
                "gender": [0, 1, -1, 7],
            }
        )
        path = str(part / "data.arrow")
        with arrow.OSFile(path, "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        for name, value in index_files().items():
            if "/" not in name:
                (part / name).write_text(json.dumps(value))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(SPLITS)}))


def index_files():
    return {
        "state.json": {"_data_files": [{"filename": "data.arrow"}], "_split": "x"},
        "dataset_info.json": {"features": FEATURES},
    }


def test_folders_of_datasets(corpus, request, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACKAGES)])
    write_dataset(corpus / "set", pytest.importorskip("pyarrow"))
    (corpus / "x").mkdir()
    shutil.copytree(corpus / "set/train", corpus / "x/train")
    for rng in seeds(request, 150):
        name = rng.choice(
            ("dataset_dict.json", "train/state.json", "train/dataset_info.json", "arrow")
        )
        path = corpus / "set" / ("train/data.arrow" if name == "arrow" else name)
        saved = path.read_bytes()
        if name == "arrow" or rng.random() < 0.2:
            path.write_bytes(mutated_bytes(rng, saved))
        elif name == "dataset_dict.json" and rng.random() < 0.6:
            splits = rng.choice(
                (["../x/train"], [str(corpus / "x/train")], [".."], [""], ["train", "train"], [1],
                 "train", None, 7, [["train"]], {"train": 1}, [], ["train/../train"], ["\udcff"])
            )  # fmt: skip
            path.write_text(json.dumps({"splits": splits}))
        else:
            path.write_text(json.dumps(mutated_value(rng, json.loads(saved))))
        before, outcome = tree(corpus), {}
        with refused_or_done(outcome):
            prepare_manifest(corpus / "set", corpus / "out", strict=rng.random() < 0.5)
        nothing_outside(corpus, before, tree(corpus))
        if outcome["error"]:
            assert not list((corpus / "out").rglob("wav.scp"))
        path.write_bytes(saved)
        shutil.rmtree(corpus / "out", ignore_errors=True)


def test_folders_like_fleurs(corpus, request):
    accepted = inputs = 0
    for rng in seeds(request, 60):
        for lang in ("de_de", "en_us"):
            for split in SPLITS:
                folder = corpus / "fleurs" / lang
                # Clips of one speaker with one name in two splits would always be refused.
                write_wav(folder / "audio" / split / f"{split}.wav")
                lines = [f"1\t{split}.wav\tSatz {split}\tx\tx\t1600\tFEMALE"]
                for _ in range(rng.choice((0, 1, 3))):
                    name = rng.choice(("../../1.wav", "/etc/passwd", "", strange_text(rng)))
                    samples = rng.choice(("1600", "", "٣", "9" * 400, "x"))
                    row = (rng.choice("12"), name, strange_text(rng), "x", "x", samples, "MALE")
                    lines.append("\t".join(row))
                content = "\n".join(lines).encode("utf-8", "surrogatepass")
                if rng.random() < 0.2:
                    content = mutated_bytes(rng, content)
                (folder / f"{split}.tsv").write_bytes(content)
        before, outcome = tree(corpus), {}
        with refused_or_done(outcome):
            prepare_manifest(corpus / "fleurs", corpus / "out", strict=rng.random() < 0.3)
        nothing_outside(corpus, before, tree(corpus))
        inputs += 1
        if not outcome["error"]:
            accepted += 1
            for split in SPLITS:
                assert validate_data_dir(corpus / "out/de" / split, check_audio=True) == []
        shutil.rmtree(corpus / "out", ignore_errors=True)
    assert accepted > inputs / 5


def test_a_refusal_is_an_error_of_lors(corpus):
    with pytest.raises(LorsError):
        prepare_manifest(corpus / "none.tsv", corpus / "out")
