"""Acoustic conditions and the speakers drawn from them."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lors.config import read_yaml
from lors.errors import LorsError, unknown_name
from lors.tasks import SPLITS

CONDITIONS_FILE = Path(__file__).parent / "conditions.yaml"
CONDITIONS = ("pool", "domain", "personal")
NOISE_COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
"""Noise colour -> exponent a of its power spectral density, which is proportional to 1/f^a."""
FEMALE = {"f1", "f2", "f3", "f4", "f5", "whisperf", "grandma"}
"""The espeak-ng variants with female voices."""
MAX_HOLDOUT = 0.5
AGES = ("teens", "twenties", "thirties", "fourties", "fifties", "sixties")
"""Common Voice's own labels, with its spelling of "fourties"."""
LIMITS = {
    "pitch": (0, 99),
    "rate_wpm": (80, 450),
    "level_dbfs": (-60, -6),
    "rt60_s": (0.01, 3),
    "drr_db": (-20, 60),
    "snr_db": (-20, 80),
    "band_hz": (1, 11025),
    "overdrive_db": (0, 60),
}
"""Lowest and highest value allowed in each range."""
ALLOWED_VALUES = {
    "voices": (),
    "variants": (),
    "noise_colour": tuple(NOISE_COLOURS),
    "sample_rate": (32000, 44100, 48000),
}
"""The values allowed in each list; empty if espeak-ng decides."""


@dataclass(frozen=True)
class Condition:
    """How one language sounds in one condition; ``conditions.yaml`` describes the fields."""

    voices: tuple[str, ...]
    variants: tuple[str, ...]
    pitch: tuple[float, float]
    rate_wpm: tuple[float, float]
    level_dbfs: tuple[float, float]
    rt60_s: tuple[float, float]
    drr_db: tuple[float, float]
    noise_colour: tuple[str, ...]
    snr_db: tuple[float, float]
    band_hz: tuple[float, float] | None
    overdrive_db: tuple[float, float] | None
    sample_rate: tuple[int, ...]
    speakers: Mapping[str, int]
    vocab_holdout: float

    def problems(self) -> list[str]:
        """Return one line for each wrong value."""
        found = []
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is None and name in ("band_hz", "overdrive_db"):
                continue
            if not (_is_range(value) and low <= value[0] <= value[1] <= high):
                found.append(f"{name}: expected [low, high] within {low} to {high}, got {value}")
        for name, known in ALLOWED_VALUES.items():
            value = getattr(self, name)
            if not (isinstance(value, tuple) and value):
                found.append(f"{name}: expected a list that is not empty, got {value}")
            elif known and set(value) - set(known):
                found.append(f"{name}: expected some of {', '.join(map(str, known))}, got {value}")
        speakers = self.speakers if isinstance(self.speakers, Mapping) else {}
        if set(speakers) != set(SPLITS) or not all(_is_count(n) for n in speakers.values()):
            found.append(f"speakers: expected a number of 1 or more for each of {SPLITS}")
        if not (_is_number(self.vocab_holdout) and 0 <= self.vocab_holdout <= MAX_HOLDOUT):
            found.append(f"vocab_holdout: expected 0 to {MAX_HOLDOUT}, got {self.vocab_holdout}")
        return found


@dataclass(frozen=True)
class Speaker:
    """One person: an espeak-ng voice with its pitch and rate, a room and a microphone."""

    client_id: str
    age: str
    gender: str
    voice: str
    pitch: int
    rate_wpm: int
    level_dbfs: float
    rt60_s: float
    drr_db: float
    noise_colour: str
    overdrive_db: float | None
    sample_rate: int


def load_condition(
    name: str, language: str, path: Path = CONDITIONS_FILE, vocab_holdout: float | None = None
) -> Condition:
    """Read one condition for one language.

    Args:
        name: ``pool``, ``domain`` or ``personal``.
        language: Common Voice code.
        path: the conditions file.
        vocab_holdout: replaces the file's value, unless it is None.

    Raises:
        UsageError: unknown condition, unknown key, no espeak-ng voice for the language, or a file
            that is not valid YAML.
        LorsError: parts, keys or values are missing or wrong (all are listed).
    """
    if name not in CONDITIONS:
        raise unknown_name("condition", name, CONDITIONS)
    data = read_yaml(path)
    absent = [part for part in ("defaults", "voices", *CONDITIONS) if not data.get(part)]
    if absent:
        raise LorsError("parts are missing", where=path, expected=absent)
    if language not in data["voices"]:
        raise unknown_name("language", language, data["voices"], where=path)
    values: dict[str, Any] = {"voices": data["voices"][language], **data["defaults"]}
    for part in ("all", language):
        values.update(data[name].get(part) or {})
    if vocab_holdout is not None:
        values["vocab_holdout"] = vocab_holdout
    where = f"{path}, condition {name}, language {language}"
    fields = [field.name for field in dataclasses.fields(Condition)]
    for key in values:
        if key not in fields:
            raise unknown_name("key", key, fields, where=where)
    missing = sorted(set(fields) - set(values))
    if missing:
        raise LorsError("keys are missing", where=where, expected=missing)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    condition = Condition(**values)
    problems = condition.problems()
    if problems:
        raise LorsError("invalid values", where=where, got=problems)
    return condition


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))


def draw_speakers(condition: Condition, count: int, *seed: object) -> list[Speaker]:
    """Draw `count` different speakers; the same `seed` parts give the same speakers.

    Variants are assigned in turn, in a random order, so that even a few speakers cover all of them;
    everything else is drawn independently.
    """
    speakers = []
    order = random.Random("\x1f".join(map(str, ("order", *seed))))
    variants = order.sample(condition.variants, len(condition.variants))
    for number in range(count):
        rng = random.Random("\x1f".join(map(str, ("speaker", *seed, number))))
        variant = variants[number % len(variants)]
        voice = rng.choice(condition.voices)
        overdrive = condition.overdrive_db
        speakers.append(
            Speaker(
                client_id=hashlib.sha512(rng.randbytes(32)).hexdigest(),
                age=rng.choice(AGES),
                gender="female" if variant in FEMALE else "male",
                voice=f"{voice}+{variant}",
                pitch=round(rng.uniform(*condition.pitch)),
                rate_wpm=round(rng.uniform(*condition.rate_wpm)),
                level_dbfs=round(rng.uniform(*condition.level_dbfs), 2),
                rt60_s=round(rng.uniform(*condition.rt60_s), 3),
                drr_db=round(rng.uniform(*condition.drr_db), 2),
                noise_colour=rng.choice(condition.noise_colour),
                overdrive_db=None if overdrive is None else round(rng.uniform(*overdrive), 2),
                sample_rate=rng.choice(condition.sample_rate),
            )
        )
    return speakers
