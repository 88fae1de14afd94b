"""The audio of a clip: speech of espeak-ng, the speaker's room and channel, and MP3."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Collection, Sequence

import numpy as np
import soundfile
import soxr

from lors.data.espeak.grammar import stable_hash
from lors.data.espeak.voices import NOISE_COLOURS, Condition, Speaker
from lors.errors import LorsError, pip_install

PROGRAM = "espeak-ng"
INSTALL_HINT = "apt-get install espeak-ng"
RATE = 16_000
"""Sampling rate in Hz of all processing; the recipes use the same."""
MIN_SECONDS, MAX_SECONDS = 0.6, 3.9
"""Length of a recording. Its MP3 may be decoded up to 0.1 s longer, and 4.0 s is the limit."""
PAUSE_SECONDS = (0.10, 0.25)
"""Silence before and after the speech."""
PEAK = 0.95
NOISE_CORNER_HZ = 100.0
"""Coloured noise is flat below this, since noise below the voice would only change the SNR."""
FIRST_REFLECTION_S = 0.002


def check_programs(voices: Collection[str], variants: Collection[str]) -> None:
    """Check that there is an MP3 encoder, and espeak-ng with these voices and variants.

    espeak-ng itself ignores an unknown variant.

    Raises:
        LorsError: something is missing; the hint is the command that installs it.
    """
    if shutil.which(PROGRAM) is None:
        raise LorsError(f"{PROGRAM} is not installed", hint=INSTALL_HINT)
    for kind, wanted, command in (
        ("voices", voices, [PROGRAM, "--voices"]),
        ("voice variants", variants, [PROGRAM, "--voices=variant"]),
    ):
        listing = _run(command).decode("utf-8", errors="replace").split()
        # One column is the file: "gmw/de" for a voice, "!v/m1" for a variant.
        known = {word.removeprefix("!v/") for word in listing}
        missing = sorted(set(wanted) - known)
        if missing:
            raise LorsError(
                f"{PROGRAM} lacks {kind} that the corpus needs",
                got=missing,
                expected=f"{PROGRAM} 1.50 or newer with all its data",
                hint=INSTALL_HINT,
            )
    if "MP3" not in soundfile.available_formats():
        raise LorsError(
            "the libsndfile that soundfile uses cannot write MP3",
            expected="libsndfile 1.1 or newer",
            hint=pip_install("--upgrade soundfile"),
        )


def speak(text: str, speaker: Speaker) -> np.ndarray:
    """Speak a text: mono float32 samples at RATE, shape (n,), without silence at the ends.

    Raises:
        LorsError: espeak-ng failed or was silent.
    """
    command = [
        *(PROGRAM, "-b", "1", "-z", "-v", speaker.voice),
        *("-p", str(speaker.pitch), "-s", str(speaker.rate_wpm), "--stdin", "--stdout"),
    ]
    wav = _run(command, text.encode("utf-8"))
    start = wav.find(b"data") + 8
    if not wav.startswith(b"RIFF") or start < 44:
        raise LorsError(f"{PROGRAM} wrote no WAV data", where=" ".join(command), got=text)
    # The header has the sizes of an endless stream: the samples end with the data.
    rate = int.from_bytes(wav[24:28], "little")
    samples = np.frombuffer(wav, dtype="<i2", offset=start, count=(len(wav) - start) // 2)
    speech = samples.astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max(initial=0.0))
    if not len(loud):
        raise LorsError(f"{PROGRAM} was silent", where=" ".join(command), got=text)
    return soxr.resample(speech[loud[0] : loud[-1] + 1], rate, RATE)


def record(
    speech: np.ndarray, speaker: Speaker, condition: Condition, *seed: object
) -> np.ndarray | None:
    """Record `speech`: add pauses, room, channel and noise, and set the level.

    Args:
        speech: float32 samples at RATE, shape (n,), full scale 1.
        speaker: gives the room, the noise colour, the overdrive and the level.
        condition: gives the channel and the range of the signal-to-noise ratio.
        seed: seed of the clip's pauses and noise.

    Returns:
        float32 samples, shape (m,), peaks at most 0.95; None if the recording would be longer than
        MAX_SECONDS or shorter than MIN_SECONDS.
    """
    rng = np.random.default_rng(stable_hash("record", *seed))
    before, after = (round(RATE * pause) for pause in rng.uniform(*PAUSE_SECONDS, size=2))
    length = before + len(speech) + after
    if not MIN_SECONDS <= length / RATE <= MAX_SECONDS:
        return None
    signal = np.zeros(length, dtype=np.float32)
    signal[before : before + len(speech)] = speech

    response = room_response(speaker)
    size = _fft_size(length + len(response))
    channel = channel_gain(condition.band_hz, size)
    spectrum = np.fft.rfft(signal, size) * np.fft.rfft(response, size) * channel
    signal = np.fft.irfft(spectrum, size)[:length]
    noise = _noise(rng, speaker.noise_colour, channel, size)[:length]

    speech_rms = _rms(signal[before : before + len(speech)])
    snr_db = rng.uniform(*condition.snr_db)
    signal += noise * (speech_rms / _rms(noise) * 10 ** (-snr_db / 20))
    if speaker.overdrive_db is not None:
        limit = np.abs(signal).max() * 10 ** (-speaker.overdrive_db / 20)
        signal = np.clip(signal, -limit, limit)
        speech_rms = _rms(signal[before : before + len(speech)])
    gain = 10 ** (speaker.level_dbfs / 20) / speech_rms
    return (signal * min(gain, PEAK / np.abs(signal).max())).astype(np.float32)


def room_response(speaker: Speaker) -> np.ndarray:
    """Return the impulse response of the speaker's room, shape (n,): direct path and diffuse tail.

    The tail is noise that decays by 60 dB in the reverberation time (Moorer, "About this
    reverberation business", Computer Music Journal 3(2), 1979). The energy of the direct path
    relative to the tail is the direct-to-reverberant ratio. All clips of a speaker have the same
    response.
    """
    rng = np.random.default_rng(stable_hash("room", speaker.client_id))
    time = np.arange(int(RATE * speaker.rt60_s)) / RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / speaker.rt60_s)
    tail[time < FIRST_REFLECTION_S] = 0
    tail *= 10 ** (-speaker.drr_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return tail.astype(np.float32)


def channel_gain(band_hz: Sequence[float] | None, size: int) -> np.ndarray:
    """Return the gain of the channel at the frequencies of a real FFT, shape (size/2 + 1,).

    It is 1 in the band and falls outside like a Butterworth filter of order 6 (36 dB per octave)
    with zero phase.
    """
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    if band_hz is None:
        return np.ones(len(frequency), dtype=np.float32)
    low, high = band_hz
    high_pass = (low / np.maximum(frequency, 1e-3)) ** 12
    low_pass = (frequency / high) ** 12
    return (1 / np.sqrt((1 + high_pass) * (1 + low_pass))).astype(np.float32)


def encode_mp3(samples: np.ndarray, sample_rate: int) -> bytes:
    """Resample from RATE to `sample_rate` (Hz) and return the bytes of a mono MP3 file."""
    resampled = np.clip(soxr.resample(samples, RATE, sample_rate), -1, 1)
    buffer = io.BytesIO()
    # About 45 kbit/s. A variable bit rate and a lower quality are faster to encode.
    soundfile.write(
        buffer,
        resampled,
        sample_rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.7,
    )
    return buffer.getvalue()


def _noise(rng: np.random.Generator, colour: str, channel: np.ndarray, size: int) -> np.ndarray:
    """Return noise of one colour after the channel, shape (size,), at an arbitrary level."""
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    shape = np.maximum(frequency, NOISE_CORNER_HZ) ** (-NOISE_COLOURS[colour] / 2)
    gain = (shape * channel).astype(np.float32)
    pairs = rng.standard_normal(2 * len(frequency), dtype=np.float32).view(np.complex64)
    return np.fft.irfft(pairs * gain, size)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) + 1e-12


def _fft_size(length: int) -> int:
    """Return a length that is fast to transform: the next multiple of 4096."""
    return -(-length // 4096) * 4096


def _run(command: list[str], text: bytes = b"") -> bytes:
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    if done.returncode:
        raise LorsError(
            f"{PROGRAM} failed with exit code {done.returncode}",
            where=" ".join(command),
            got=done.stderr.decode("utf-8", errors="replace").strip() or text.decode("utf-8"),
        )
    return done.stdout
