"""Stage 1 from the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cv_corpus import small_corpus

from lors.bin import prepare_covost2, validate_data_dir
from lors.data.datadir import read_data_dir


def arguments(corpus, out, *langs):
    return [
        "--common_voice", str(corpus.common_voice), "--covost2", str(corpus.covost2),
        "--out", str(out), "--langs", *langs,
    ]  # fmt: skip


def test_all_languages_and_the_table(tmp_path, capsys):
    corpora = [small_corpus(tmp_path, lang).write() for lang in ("de", "sv-SE")]
    out = tmp_path / "data"
    assert prepare_covost2.main(arguments(corpora[0], out, "de", "sv-SE")) == 0
    table = capsys.readouterr().out
    for lang in ("de", "sv-SE"):
        assert json.loads((out / lang / "report.json").read_text())["lang"] == lang
        for split in ("train", "dev", "test"):
            assert len(read_data_dir(out / lang / split)) == 4
            assert any(line.split()[:3] == [lang, split, "4"] for line in table.splitlines())
    directories = [str(path) for path in out.glob("*/*/") if path.is_dir()]
    assert validate_data_dir.main([*directories, "--check_audio"]) == 0
    assert capsys.readouterr().out.count("valid, 4 utterances") == 6


def test_the_same_input_gives_the_same_bytes(tmp_path):
    corpus = small_corpus(tmp_path).write()
    contents = []
    for _ in range(2):
        assert prepare_covost2.main(arguments(corpus, tmp_path / "data", "de")) == 0
        files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file())
        contents.append([(path, path.read_bytes()) for path in files])
    assert contents[0] == contents[1] and len(contents[0]) == 3 * 6 + 2


@pytest.mark.parametrize(
    ("damage", "code", "fact"),
    [
        ("unknown language", 2, "'xx'"),
        ("missing column", 1, "validated.tsv"),
        ("no corpus", 1, "nowhere"),
    ],
)
def test_bad_input_ends_with_a_message_and_an_exit_code(tmp_path, capsys, damage, code, fact):
    corpus = small_corpus(tmp_path).write()
    if damage == "missing column":
        text = corpus.validated.read_text()
        corpus.validated.write_text(text.replace("sentence", "words", 1))
    args = arguments(corpus, tmp_path / "data", "xx" if damage == "unknown language" else "de")
    if damage == "no corpus":
        args[1] = str(tmp_path / "nowhere")
    assert prepare_covost2.main(args) == code
    error = capsys.readouterr().err
    assert fact in error and "Traceback" not in error


def test_an_invalid_data_directory_lists_its_problems(tmp_path, capsys):
    corpus = small_corpus(tmp_path).write()
    assert prepare_covost2.main(arguments(corpus, tmp_path / "data", "de")) == 0
    train = tmp_path / "data/de/train"
    (train / "spk2utt").unlink()
    (train / "text").write_text("")
    assert validate_data_dir.main([str(train)]) == 1
    error = capsys.readouterr().err
    assert f"{train}/spk2utt:" in error and f"{train}/text:" in error


def test_preparing_needs_neither_torch_nor_pandas():
    code = (
        "import sys, lors.bin.prepare_covost2, lors.bin.format_audio, lors.bin.validate_data_dir;"
        "print(sorted({'torch', 'pandas', 'scipy', 'librosa'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
