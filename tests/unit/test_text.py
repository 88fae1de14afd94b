"""Text normalisation by language."""

import subprocess
import sys

import pytest

from lors import whisper_package
from lors.score import text
from lors.score.text import base_language, get_normaliser
from tests.refusal import refusal


def test_english_uses_the_english_normaliser():
    normalise = get_normaliser("en")
    assert (normalise.name, normalise.unit) == ("whisper-english", "word")
    assert normalise("Mr. Brown won't pay twenty-one dollars!") == "mister brown will not pay $21"


@pytest.mark.parametrize("lang", ["de", "sv-SE", "ru", "ca"])
def test_other_languages_use_the_basic_normaliser(lang):
    normalise = get_normaliser(lang)
    assert (normalise.name, normalise.unit) == ("whisper-basic", "word")


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("Grüße,  aus\tKöln!", "grüße aus köln"),
        ("L'été [laughs] (hm) arrive.", "l été arrive"),
        ("  null ", "null"),
        ("Gru\u0308n", "grün"),  # NFKC: a composed and a combining umlaut are one letter
        ("...", ""),
        ("", ""),
    ],
)
def test_basic_normaliser_keeps_letters_and_drops_the_rest(raw, expected):
    assert get_normaliser("de")(raw) == expected


@pytest.mark.parametrize("lang", ["zh-CN", "zh-HK", "yue", "ja"])
def test_languages_without_spaces_are_split_into_characters(lang):
    normalise = get_normaliser(lang)
    assert (normalise.name, normalise.unit) == ("whisper-basic-characters", "character")
    assert normalise("你好，世界 2Ａ。") == "你 好 世 界 2 a"


def test_base_language_drops_the_region():
    assert [base_language(c) for c in ("sv-SE", "zh-CN", "de")] == ["sv", "zh", "de"]


def test_neither_torch_nor_whisper_is_imported():
    code = (
        "import sys; from lors.score.text import get_normaliser; "
        "assert get_normaliser('en')('A.') == 'a'; "
        "print(sorted({'torch', 'numba', 'whisper'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("another_whisper", [False, True])
def test_missing_package_is_a_clear_error(monkeypatch, tmp_path, another_whisper):
    class Spec:  # the unrelated PyPI package of the same name has no normalisers
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(
        whisper_package.importlib.util, "find_spec", lambda name: Spec if another_whisper else None
    )
    private = whisper_package.PRIVATE_NAME.format("normalizers")
    monkeypatch.delitem(sys.modules, private, raising=False)
    text.get_normaliser.cache_clear()
    with refusal("openai-whisper"):
        get_normaliser("de")
