"""Known language codes, to detect typing errors in a manifest.

These are the codes of Common Voice (two letters of ISO 639-1, else three letters of ISO 639-3, some
with a region), and those that Whisper and FLEURS have in addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lors.errors import UsageError, shortened
from lors.fileio import path_component

_TWO_LETTERS = """
aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv
dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie
ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv
mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm
rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts
tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
_THREE_LETTERS = """
ady afr ara arb ast aze bas bel ben bul byv cat ceb ces ckb cmn cnh dag dan deu dyu ell eng est fas
fil fin fra gle glg guj haw heb hil hin hrv hsb hun hye ind isl ita jav jpn kaa kab kam kan kat kaz
kbd kea khm kmr kor ltg luo lit lav mal mar mdf mhr mkd mon mrj msa mya myv nan nld nor npi nso oci
ori pan pol por pus quy ron rus sah sat skr slk slv sna snd som spa srp swa swe tam tel tgk tha tig
tok tur ukr umb urd uzb vie vot wol xho yor yue zgh zho zul zza
"""
_REGIONAL = """
fy-NL ga-IE hy-AM nan-tw nb-NO ne-NP nn-NO pa-IN pt-BR rm-sursilv rm-vallader sv-SE zh-CN zh-HK
zh-TW
"""
CODES = frozenset(f"{_TWO_LETTERS} {_THREE_LETTERS} {_REGIONAL}".split())

_FLEURS_CODES = {
    "cmn_hans_cn": "zh-CN",
    "nb_no": "nb-NO",
    "sv_se": "sv-SE",
    "yue_hant_hk": "zh-HK",
}
"""Language folders of FLEURS -> Common Voice's code, where this is not the first part."""


def from_fleurs(name: str) -> str:
    """Return the code for a language folder of FLEURS: ``de`` for ``de_de``."""
    return _FLEURS_CODES.get(name, name.split("_")[0])


def check_languages(langs: Sequence[str], option: str) -> None:
    """Check the languages that an option names; each becomes the name of a folder.

    Raises:
        UsageError: there is none, a code cannot be a file name, or a code is given twice.
    """
    if not langs:
        raise UsageError("no language", where=option, expected="language codes, e.g. de sv-SE")
    for lang in langs:
        path_component(lang, option, UsageError)
    repeated = sorted(lang for lang, number in Counter(langs).items() if number > 1)
    if repeated:
        raise UsageError(
            "a language is given twice",
            where=option,
            got=", ".join(shortened(repeated)),
            hint="name it once",
        )
