"""Strange and damaged tables of Common Voice and CoVoST 2: every row is kept once or listed."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from lors.data.common_voice import prepare_common_voice
from lors.data.covost2 import prepare_covost2
from lors.data.datadir import one_line, read_data_dir, validate_data_dir
from lors.data.selection import is_empty
from tests.fuzz.corpora import refused_or_done, strange_text, tree
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.unit.cv_corpus import COVOST_HEADER, CV_HEADER

CLIPS = [f"common_voice_de_{number}.mp3" for number in range(30)]
SPLITS = ("train", "dev", "test")


@pytest.fixture
def release(folder):
    clips = folder / "cv/de/clips"
    clips.mkdir(parents=True)
    for name in CLIPS:
        (clips / name).write_bytes(b"x")
    (folder / "covost").mkdir()
    return folder


def escaped(value):
    """A value as the corpora write it, and as many a hand-made table does."""
    return value.replace("\\", "\\\\").replace("\t", "\\\t")


def clip_of(rng, names):
    """Mostly one of the clips that is not used yet."""
    chance = rng.random()
    if chance < 0.75 and names:
        return names.pop()
    if chance < 0.85:
        return rng.choice(CLIPS)
    return rng.choice(
        (
            "",
            "none.mp3",
            "../../x.mp3",
            "/etc/passwd",
            "a b.mp3",
            "x |",
            "x" * 300,
            strange_text(rng),
        )
    )


def table(rng, header, rows):
    """The bytes of a table; now and then damaged."""
    header = list(header)
    damage = rng.random()
    lines = ["\t".join(escaped(row[name]) for name in header) for row in rows]
    if damage < 0.04:
        header[rng.randrange(len(header))] = rng.choice(("path", "", "x", strange_text(rng)))
    elif damage < 0.06:
        header += [f"c{number}" for number in range(rng.choice((1, 3000)))]
    elif damage < 0.14 and lines:
        place = rng.randrange(len(lines))
        lines[place] = rng.choice(
            ("\t" * rng.choice((1, 40, 30_000)), "x", "", lines[place] + "\tx")
        )
    ends = rng.choice(("\n", "\n", "\n", "\r\n"))
    content = ends.join(["\t".join(header), *lines, ""]).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = b"\xef\xbb\xbf" + content
    if 0.14 <= damage < 0.34:
        content = mutated_bytes(rng, content)
    elif 0.34 <= damage < 0.35:
        content = content.decode("utf-8", "replace").encode("utf-16")
    return content, not 0.14 <= damage < 0.35


def rows_in(content):
    """The number of lines with content after the header."""
    return sum(1 for line in content.split(b"\n")[1:] if line.rstrip(b"\r"))


def sentences(rng, names, count):
    rows = []
    for _ in range(count):
        row = dict.fromkeys(CV_HEADER, "")
        row |= {"client_id": rng.choice(("a", "b", "c", "", strange_text(rng))), "gender": "male"}
        if rng.random() < 0.3:
            row["gender"] = rng.choice(("transgender", "female_feminine", strange_text(rng)))
        row["path"] = clip_of(rng, names)
        if row["path"].endswith(".mp3") and rng.random() < 0.1:
            row["path"] = row["path"].removesuffix(".mp3")
        row["sentence"] = strange_text(rng) if rng.random() < 0.5 else f"Satz {rng.random()}"
        rows.append(row)
    return rows


def check(folder, before, outcome, reports, texts):
    """Check the result for any input; `texts` maps a clip to its text, if it is known."""
    after = tree(folder)
    written = {name for name in after if name not in before}
    assert all(after[name] == content for name, content in before.items())
    assert all(name.startswith("out/de/") for name in written)
    assert not [name for name in written if name.endswith((".tmp", ".lock"))]
    if outcome["error"]:
        assert not [name for name in written if name.endswith("wav.scp")]
        return
    for split in SPLITS:
        row = reports[0]["splits"][split]
        assert row["rows"] == row["clips"] + sum(row["dropped"].values())
        path = folder / "out/de" / split
        assert validate_data_dir(path, check_audio=True) == []
        utterances = read_data_dir(path)
        assert len(utterances) == row["clips"]
        for utterance in utterances:
            clip = utterance.wav.rsplit("/", 1)[1]
            if clip in texts:
                text = texts[clip]
                assert utterance.text == ("" if is_empty(text) else one_line(text))
    listed = Counter(
        line.split("\t")[0] for line in after["out/de/dropped.tsv"][1].decode().split("\n")
    )
    for split in SPLITS:
        assert listed[split] == sum(reports[0]["splits"][split]["dropped"].values())


def known_texts(rows):
    """The sentence of every clip that is in one row only."""
    names = [name if "." in name else f"{name}.mp3" for name in (row["path"] for row in rows)]
    counts = Counter(names)
    return {n: row["sentence"] for n, row in zip(names, rows, strict=True) if counts[n] == 1}


def test_common_voice(release, request):
    for rng in seeds(request, 250):
        names = rng.sample(CLIPS, len(CLIPS))
        contents, rows, exact = {}, [], True
        for split in SPLITS:
            own = sentences(rng, names, rng.choice((3, 6, 9)) if rng.random() < 0.97 else 0)
            contents[split], is_exact = table(rng, CV_HEADER, own)
            rows += own
            exact &= is_exact
            (release / f"cv/de/{split}.tsv").write_bytes(contents[split])
        before, outcome, reports = tree(release), {}, []
        limit = rng.choice((1.0, 1.0, 0.1))
        with refused_or_done(outcome):
            reports = prepare_common_voice(release / "cv", ["de"], release / "out", "train", limit)
        check(release, before, outcome, reports, known_texts(rows) if exact else {})
        if reports:
            for split, content in contents.items():
                assert reports[0]["splits"][split]["rows"] == rows_in(content)
        shutil.rmtree(release / "out", ignore_errors=True)


def test_covost2(release, request):
    for rng in seeds(request, 150):
        names = rng.sample(CLIPS, len(CLIPS))
        speech = sentences(rng, names, rng.choice((3, 12, 25)))
        covost = []
        for row in speech:
            mark = rng.choice((*SPLITS * 3, "train_covost", "x", strange_text(rng)))
            name = row["path"] if rng.random() < 0.9 else clip_of(rng, names)
            text = strange_text(rng) if rng.random() < 0.3 else "A sentence"
            covost.append({"path": name, "translation": text, "split": mark})
        validated, exact = table(rng, CV_HEADER, speech)
        other, also_exact = table(rng, COVOST_HEADER, covost)
        (release / "cv/de/validated.tsv").write_bytes(validated)
        (release / "covost/covost_v2.de_en.tsv").write_bytes(other)
        before, outcome, reports = tree(release), {}, []
        with refused_or_done(outcome):
            reports = prepare_covost2(
                release / "cv",
                release / "covost",
                ["de"],
                release / "out",
                rng.choice((0, 0.95)),
                1.0,
            )
        texts = known_texts(speech) if exact and also_exact else {}
        check(release, before, outcome, reports, texts)
        if reports:
            counted = sum(row["rows"] for row in reports[0]["splits"].values())
            others = sum(reports[0]["rows_of_other_splits"].values())
            malformed = reports[0]["malformed_rows"]["covost_v2.de_en.tsv"]
            assert counted + others + malformed == rows_in(other)
        shutil.rmtree(release / "out", ignore_errors=True)


@pytest.mark.parametrize("lang", ["../../de", "/etc", "", ".", "de/..", "d e", "\udcff", "x" * 999])
def test_languages_that_are_no_folder(release, lang):
    before, outcome = tree(release), {}
    for work in (
        lambda: prepare_common_voice(release / "cv", [lang], release / "out"),
        lambda: prepare_covost2(release / "cv", release / "covost", [lang], release / "out"),
        lambda: prepare_covost2(
            release / "cv", release / "covost", ["de"], release / "out", target=lang
        ),
    ):
        with refused_or_done(outcome):
            work()
        assert outcome["error"].exit_code == 2
    assert tree(release) == before
