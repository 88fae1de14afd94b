"""Language codes: of folders of FLEURS, and as names of folders."""

from __future__ import annotations

import pytest

from lors.data.languages import CODES, check_languages, from_fleurs
from lors.errors import UsageError
from lors.models.espnet_s2t.prompts import language_symbol
from lors.models.whisper.prompts import language_code
from tests.refusal import refusal


@pytest.mark.parametrize(
    ("folder", "code", "whisper", "symbol"),
    [
        ("de_de", "de", "de", "<deu>"),
        ("nb_no", "nb-NO", "no", "<nob>"),
        ("jv_id", "jv", "jw", "<jav>"),
        ("fil_ph", "fil", "tl", "<fil>"),
        ("sv_se", "sv-SE", "sv", "<swe>"),
        ("cmn_hans_cn", "zh-CN", "zh", "<zho>"),
    ],
)
def test_languages_of_fleurs(folder, code, whisper, symbol):
    assert from_fleurs(folder) == code and code in CODES
    assert language_code(code) == whisper
    assert language_symbol(code) == symbol


@pytest.mark.parametrize("langs", [[], ["de", "../de"], ["de", "de"], ["de "], ["a/b"], ["."]])
def test_languages_that_cannot_be_folders(langs):
    check_languages(["de", "sv-SE", "tlh"], "--langs")
    with refusal("--langs", kind=UsageError):
        check_languages(langs, "--langs")
