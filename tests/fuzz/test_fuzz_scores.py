"""Random texts, scoring files, score files and sweep files."""

import json
import time
import unicodedata

import pytest

from lors.bin import compare as compare_main
from lors.bin import score as score_main
from lors.errors import LorsError
from lors.page.overlap_charts import overlap_plots
from lors.plots.sweep import sweep_figure
from lors.recipe.mask_overlap import overlap_sections
from lors.recipe.personal import size_sections
from lors.recipe.report import render_markdown
from lors.recipe.results import make_report
from lors.recipe.score_tree import read_scores
from lors.recipe.subnet_sizes import subnet_size_sections
from lors.recipe.sweeps import read_sweeps
from lors.score import score_asr
from lors.score.text import get_normaliser
from lors.score.utterances import UTTERANCES
from lors.tasks import TASKS
from tests.fuzz.mutate import mutated_bytes, mutated_value, seeds
from tests.unit.score_trees import (
    make_overlap,
    make_scores,
    make_sizes,
    make_sweeps,
    make_texts,
)
from tests.unit.test_words import ALPHABETS, LANGUAGES, folded, is_word

SECONDS = 0.5
"""The longest time for one input."""
SEPARATORS = (*" \t\n\u00a0\u2003\u3000", *",.;:!?-–—/|&+=*#€©\u061f\u0964\u3002\u2026\u00bf\u2028")
PLANES = ((0, 0x250), (0x250, 0x3000), (0x3000, 0x20000), (0xE0000, 0xE0200), (0, 0x110000))
MARKED = "'’<>[](){}\"“·İIıiς\u0301\u0307\u0327\u034f\u0640\u200b\u200c\u200d\ufe0f\U0001f600ﬁ²½"


def random_character(rng, alphabet):
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(alphabet)
    if kind < 0.8:
        return rng.choice(MARKED + "".join(SEPARATORS))
    code = rng.randrange(*rng.choice(PLANES))
    return "a" if 0xD800 <= code < 0xE000 else chr(code)


def random_text(rng, lang, most=60):
    alphabet = ALPHABETS[lang].split()
    return "".join(random_character(rng, alphabet) for _ in range(rng.randrange(most)))


def test_random_text_is_normalised_once_and_for_all(request):
    for rng in seeds(request, 2000):
        lang = rng.choice(LANGUAGES)
        text, normalise = random_text(rng, lang), get_normaliser(lang)
        began = time.process_time()
        normalised = normalise(text)
        assert time.process_time() - began < SECONDS
        assert normalise(normalised) == normalised, (lang, text)
        assert normalised == " ".join(normalised.split())
        assert unicodedata.normalize("NFC", normalised) == normalised, (lang, text)
        for character in normalised.replace(" ", ""):
            category = unicodedata.category(character)
            known = category[0] in "LMN" or category in {"Cn", "Co"}
            assert known or character in "·״", (lang, text)
        if normalise.unit == "character":
            assert all(len(character) == 1 for character in normalised.split())


def test_words_between_separators_are_the_words(request):
    for rng in seeds(request, 1000):
        lang = rng.choice(LANGUAGES)
        letters = [letter for letter in ALPHABETS[lang].split() if is_word(letter)]
        starts = [letter for letter in letters if unicodedata.category(letter[0])[0] == "L"]
        words = [
            rng.choice(starts) + "".join(rng.choices(letters, k=rng.randrange(6)))
            for _ in range(rng.randrange(1, 8))
        ]
        text = "".join(
            word + "".join(rng.choices(SEPARATORS, k=rng.randint(1, 3))) for word in words
        )
        normalise = get_normaliser(lang)
        result = normalise(text).split()
        if normalise.unit == "character":
            assert "".join(result) == "".join(normalise(" ".join(words)).split())
        else:
            assert [folded(word, lang) for word in result] == [
                folded(normalise(word), lang) for word in words
            ], (lang, text)


def test_a_text_has_no_error_against_itself(request):
    for rng in seeds(request, 300):
        lang = rng.choice(LANGUAGES)
        refs = {f"u{i}": random_text(rng, lang) for i in range(rng.randint(1, 4))}
        try:
            result = score_asr(refs, refs, lang)
        except LorsError:
            assert not any(map(get_normaliser(lang), refs.values()))
            continue
        assert (result.wer, result.cer, result.empty_hyps) == (0, 0, result.empty_refs)
        units = sum(len(get_normaliser(lang)(text).split()) for text in refs.values())
        assert result.ref_words == units


@pytest.fixture
def kaldi_text(tmp_path):
    lines = [f"utt{i} Guten Tag, {word}!" for i, word in enumerate(("Welt", "größe", "你好", "न"))]
    return ("\n".join(lines) + "\n").encode()


def test_scoring_files(request, tmp_path, kaldi_text, capsys):
    out, ref, hyp = (tmp_path / name for name in ("out.json", "ref", "hyp"))
    for rng in seeds(request, 400):
        ref.write_bytes(kaldi_text)
        hyp.write_bytes(mutated_bytes(rng, kaldi_text))
        files = [ref, hyp] if rng.random() < 0.8 else [hyp, hyp]
        task, lang = rng.choice((("asr", rng.choice(LANGUAGES)), ("st", "de")))
        for written in (out, out.with_suffix(".utterances.tsv")):
            written.unlink(missing_ok=True)
        arguments = ["--task", task, "--lang", lang, "--out", str(out)]
        code = score_main.main([*arguments, "--ref", str(files[0]), "--hyp", str(files[1])])
        assert code in (0, 1)
        assert out.exists() == out.with_suffix(".utterances.tsv").exists() == (code == 0)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        if code == 1:
            assert str(files[0]) in message or str(files[1]) in message
            assert "what to do" in message or "got" in message
        else:
            content = json.loads(out.read_text(encoding="utf-8"))
            if files[0] == ref:
                assert content["utterances"] == 4
            elif task == "asr":
                assert content["wer"] == 0
            _read_again(out, task)
        names = {"out.json", "out.utterances.tsv", "ref", "hyp"}
        assert {path.name for path in tmp_path.iterdir()} <= names


def _read_again(score, task):
    """A file of utterances that was written can be read, and gives the same scores."""
    content = json.loads(score.read_text(encoding="utf-8"))
    utterances = UTTERANCES[task].read(score.with_suffix(".utterances.tsv"))
    for metric in TASKS[task].metrics:
        assert utterances.score(metric) == content[metric.key]


def mutated_json(rng, content):
    if rng.random() < 0.3:
        return mutated_bytes(rng, json.dumps(content, indent=2).encode())
    return json.dumps(mutated_value(rng, content)).encode()


def test_score_files_and_sweep_files(request, tmp_path):
    expdir = make_sweeps(make_scores(tmp_path / "exp"))
    paths = [
        expdir / "scores/test/base/de_asr.json",
        expdir / "scores/test/lors.langs/sv-SE_st.json",
        expdir / "tune/lors.asr/sweep.json",
    ]
    originals = {path: path.read_bytes() for path in paths}
    reported = 0
    for rng in seeds(request, 200):
        path = rng.choice(paths)
        path.write_bytes(mutated_json(rng, json.loads(originals[path])))
        try:
            sweeps = read_sweeps([expdir])
            render_markdown(make_report(read_scores([expdir]), sweeps), "T", "")
            if path == paths[2] and rng.random() < 0.1:
                sweep_figure(sweeps)
            reported += 1
        except LorsError as error:
            assert str(path) in str(error)
        path.write_bytes(originals[path])
    assert reported


def test_files_of_measurements(request, tmp_path):
    expdir = make_sizes(make_overlap(tmp_path / "exp"))
    originals = {path: path.read_bytes() for path in sorted(expdir.iterdir())}
    assert [path.name for path in originals] == ["overlap.json", "parameters.json", "sizes.json"]
    readers = (overlap_sections, subnet_size_sections, size_sections)
    reported = 0
    for rng in seeds(request, 200):
        path = rng.choice([*originals])
        path.write_bytes(mutated_json(rng, json.loads(originals[path])))
        try:
            sections = [section for read in readers for section in read([expdir])]
            render_markdown(sections, "T", "")
            overlap_plots([expdir / "overlap.json"])
            reported += 1
        except LorsError as error:
            assert str(path) in str(error)
        path.write_bytes(originals[path])
    assert reported


def test_files_of_utterances(request, tmp_path, capsys):
    expdir = make_texts(tmp_path / "exp", rates={"base": 0.5, "lors.langs": 0.2})
    paths = sorted((expdir / "scores/test/base").glob("de*.tsv"))
    arguments = ["--expdir", str(expdir), "--systems", "lors.langs", "base", "--langs", "de"]
    originals = {path: path.read_bytes() for path in paths}
    for rng in seeds(request, 60):
        path = rng.choice(paths)
        path.write_bytes(mutated_bytes(rng, originals[path]))
        assert compare_main.main(arguments) in (0, 1)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not message or str(path).removesuffix("utterances.tsv") in message
        path.write_bytes(originals[path])
