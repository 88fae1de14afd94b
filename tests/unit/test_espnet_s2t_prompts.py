import pytest

from lors.errors import UsageError
from lors.models.espnet_s2t.prompts import language_symbol, special_symbols, task_symbol
from tests.refusal import refusal


@pytest.mark.parametrize(
    ("lang", "symbol"),
    [
        ("ca", "<cat>"),
        ("de", "<deu>"),
        ("es", "<spa>"),
        ("fr", "<fra>"),
        ("id", "<ind>"),
        ("it", "<ita>"),
        ("nl", "<nld>"),
        ("pt", "<por>"),
        ("ru", "<rus>"),
        ("sv-SE", "<swe>"),
        ("zh-CN", "<zho>"),
    ],
)
def test_language_symbols_are_iso_639_3(lang, symbol):
    assert language_symbol(lang) == symbol


def test_task_symbols():
    assert (task_symbol("asr"), task_symbol("st")) == ("<asr>", "<st_eng>")


def test_unknown_names_get_near_ones():
    with refusal("'sv'", "sv-SE", kind=UsageError):
        language_symbol("sv")
    with refusal("'mt'", "asr, st", kind=UsageError):
        task_symbol("mt")


def test_special_symbols():
    assert special_symbols(["de", "sv-SE"], speech_length=1.0, resolution=0.5) == [
        *("<na>", "<notimestamps>", "<sop>"),
        *("<deu>", "<swe>"),
        *("<asr>", "<st_eng>"),
        *("<0.00>", "<0.50>", "<1.00>"),
    ]
    assert special_symbols(["de"], 30.0, 0.02)[-1] == "<30.00>"
    assert len(set(special_symbols(["de"], 30.0, 0.02))) == 6 + 1501
