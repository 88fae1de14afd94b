"""Ids and genders of speakers, from the client ids and the gender column of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lors.errors import LorsError

SPEAKER_DIGITS = 12  # 48 bits: 100,000 speakers share an id with probability 2e-5

# Old releases of Common Voice write "male", new ones "male_masculine".
GENDERS = {
    **dict.fromkeys(("m", "male", "male_masculine"), "m"),
    **dict.fromkeys(("f", "female", "female_feminine"), "f"),
}
"""Gender in a corpus (lower case) -> gender in Kaldi's ``spk2gender``."""


def speaker_id(client: str) -> str:
    """Return a short speaker id: the first hexadecimal digits of the SHA-256 of a client id."""
    return hashlib.sha256(client.encode("utf-8")).hexdigest()[:SPEAKER_DIGITS]


class SpeakerIds:
    """The speaker ids of a corpus, checked to differ."""

    def __init__(self) -> None:
        self._clients: dict[str, str] = {}

    def of(self, client: str) -> str:
        """Return the speaker id of a client.

        Raises:
            LorsError: another client has the same speaker id.
        """
        speaker = speaker_id(client)
        other = self._clients.setdefault(speaker, client)
        if other != client:
            raise LorsError(
                f"two clients share the speaker id {speaker}",
                got=[other, client],
                hint="make SPEAKER_DIGITS in lors/data/speakers.py larger",
            )
        return speaker


def genders_of(rows: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Return the gender of each client that states one: ``m``, ``f``, or None if it states both.

    Args:
        rows: the client id and the value of the column ``gender`` of each row.
    """
    genders: dict[str, str | None] = {}
    contradictory = set()
    for client, stated in rows:
        gender = GENDERS.get(stated.strip().lower())
        if client and gender and genders.setdefault(client, gender) != gender:
            contradictory.add(client)
    return {**genders, **dict.fromkeys(contradictory)}
