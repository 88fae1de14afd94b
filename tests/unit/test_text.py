"""Choice of the text normaliser by language."""

import subprocess
import sys

import pytest

from lors import whisper_package
from lors.errors import UsageError
from lors.score import text
from lors.score.text import base_language, get_normaliser, normaliser_versions
from tests.refusal import refusal


@pytest.mark.parametrize("choice", ["lors", "whisper"])
def test_english_uses_the_english_normaliser_of_whisper(choice):
    normalise = get_normaliser("en", choice)
    assert (normalise.name, normalise.unit) == ("whisper-english", "word")
    assert normalise("Mr. Brown won't pay twenty-one dollars!") == "mister brown will not pay $21"


@pytest.mark.parametrize(
    ("lang", "choice", "name", "unit"),
    [
        ("de", "lors", "lors-basic", "word"),
        ("sv-SE", "lors", "lors-basic", "word"),
        ("zh-CN", "lors", "lors-characters", "character"),
        ("th", "lors", "lors-characters", "character"),
        ("lo", "lors", "lors-characters", "character"),
        ("my", "lors", "lors-characters", "character"),
        ("de", "whisper", "whisper-basic", "word"),
        ("th", "whisper", "whisper-basic", "word"),
        ("ja", "whisper", "whisper-basic-characters", "character"),
    ],
)
def test_name_unit_and_version_of_the_normaliser(lang, choice, name, unit):
    normalise = get_normaliser(lang, choice)
    assert (normalise.name, normalise.unit) == (name, unit)
    project = "lors" if choice == "lors" else "openai-whisper"
    assert normalise.version == f"{project} {normaliser_versions()[project]}"


def test_unknown_normaliser():
    with refusal("'wisper'", "whisper", "lors", kind=UsageError):
        get_normaliser("de", "wisper")


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("Grüße,  aus\tKöln!", "grüße aus köln"),
        ("L'été [laughs] (hm) arrive.", "l été arrive"),
        ("  null ", "null"),
        ("Gru\u0308n", "grün"),
        ("...", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("choice", ["lors", "whisper"])
def test_letters_stay_and_the_rest_goes(choice, raw, expected):
    assert get_normaliser("de", choice)(raw) == expected


@pytest.mark.parametrize("lang", ["zh-CN", "zh-HK", "yue", "ja"])
@pytest.mark.parametrize("choice", ["lors", "whisper"])
def test_chinese_and_japanese_are_split_into_characters(lang, choice):
    assert get_normaliser(lang, choice)("你好，世界 2Ａ。") == "你 好 世 界 2 a"


def test_base_language():
    codes = ("sv-SE", "zh-CN", "de", "eng", "tha", "iw")
    assert [base_language(c) for c in codes] == ["sv", "zh", "de", "en", "th", "he"]


def test_neither_torch_nor_whisper_is_imported():
    code = (
        "import sys; from lors.score.text import get_normaliser; "
        "assert get_normaliser('en')('A.') == 'a'; "
        "print(sorted({'torch', 'numba', 'whisper'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("another_whisper", [False, True])
@pytest.mark.parametrize(("lang", "choice"), [("en", "lors"), ("de", "whisper")])
def test_missing_package_is_a_clear_error(monkeypatch, tmp_path, another_whisper, lang, choice):
    class Spec:  # the unrelated PyPI package of the same name has no normalisers
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(
        whisper_package.importlib.util, "find_spec", lambda name: Spec if another_whisper else None
    )
    private = whisper_package.PRIVATE_NAME.format("normalizers")
    monkeypatch.delitem(sys.modules, private, raising=False)
    text.get_normaliser.cache_clear()
    with refusal("openai-whisper"):
        get_normaliser(lang, choice)
    assert get_normaliser("de")("Ja!") == "ja"
