"""The recording chain, measured: levels, noise, room, channel, overdrive, MP3."""

import dataclasses
import io

import numpy as np
import pytest
import soundfile

from lors.data.espeak import audio, voices
from tests.refusal import refusal

RATE = audio.RATE
PLAIN = dataclasses.replace(voices.load_condition("pool", "de"), snr_db=(60, 60))
SPEAKER = dataclasses.replace(
    voices.draw_speakers(PLAIN, 1, 0)[0],
    drr_db=60.0,
    rt60_s=0.05,
    level_dbfs=-25.0,
    overdrive_db=None,
    noise_colour="white",
)


def voice(seconds=2.0):
    """A signal with the level and the peaks of speech: syllables, below 4 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * RATE)) / RATE
    carrier = sum(
        np.sin(2 * np.pi * f * time + rng.uniform(0, 7)) / f for f in range(150, 4000, 150)
    )
    return (carrier * np.sin(np.pi * 4 * time) ** 2).astype(np.float32)


def db(power_ratio):
    return 10 * np.log10(power_ratio)


def parts(recording, speech):
    """Return the first pause of a recording, and a part with speech."""
    return recording[: int(0.09 * RATE)], recording[int(0.25 * RATE) : len(speech)]


def test_level_length_and_pauses():
    speech = voice()
    recording = audio.record(speech, SPEAKER, PLAIN, 1)
    extra = (len(recording) - len(speech)) / RATE
    assert recording.dtype == np.float32 and 0.2 <= extra <= 0.5
    rms = np.sqrt(np.sum(recording**2) / len(speech))
    assert 20 * np.log10(rms) == pytest.approx(-25, abs=0.1)
    assert np.abs(recording).max() <= audio.PEAK


def test_recording_is_a_function_of_its_seed():
    speech = voice()
    one = audio.record(speech, SPEAKER, PLAIN, 1)
    assert np.array_equal(one, audio.record(speech, SPEAKER, PLAIN, 1))
    other = audio.record(speech, SPEAKER, PLAIN, 2)
    assert len(one) != len(other) or not np.array_equal(one, other)


def test_too_long_and_too_short_are_refused():
    assert audio.record(voice(audio.MAX_SECONDS), SPEAKER, PLAIN, 1) is None
    assert audio.record(voice(0.05), SPEAKER, PLAIN, 1) is None
    assert audio.record(voice(audio.MAX_SECONDS - 0.6), SPEAKER, PLAIN, 1) is not None


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("colour", sorted(voices.NOISE_COLOURS))
def test_signal_to_noise_ratio(snr, colour):
    condition = dataclasses.replace(PLAIN, snr_db=(snr, snr))
    speaker = dataclasses.replace(SPEAKER, noise_colour=colour)
    speech = voice()
    measured = []
    for seed in range(8):
        pause, spoken = parts(audio.record(speech, speaker, condition, seed), speech)
        noise = np.mean(pause**2)
        measured.append((np.mean(spoken**2) - noise) / noise)
    assert db(np.mean(measured)) == pytest.approx(snr, abs=2.0)


@pytest.mark.parametrize(("colour", "slope"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_noise_colour(colour, slope):
    size = 1 << 16
    channel = np.ones(size // 2 + 1)
    power = np.abs(np.fft.rfft(audio._noise(np.random.default_rng(0), colour, channel, size))) ** 2
    frequency = np.fft.rfftfreq(size, 1 / RATE)

    def octave(low):
        return np.mean(power[(frequency >= low) & (frequency < 2 * low)])

    assert db(octave(2000) / octave(500)) / 2 == pytest.approx(slope, abs=0.3)


@pytest.mark.parametrize(("rt60", "drr"), [(0.2, 12.0), (0.8, -2.0)])
def test_room_has_the_reverberation_time_and_the_direct_sound_asked_for(rt60, drr):
    speaker = dataclasses.replace(SPEAKER, rt60_s=rt60, drr_db=drr)
    response = audio.room_response(speaker).astype(np.float64)
    assert db(response[0] ** 2 / np.sum(response[1:] ** 2)) == pytest.approx(drr, abs=0.01)
    # Schroeder's backward integration: the slope of the decay from -5 to -25 dB.
    energy = np.cumsum(response[:0:-1] ** 2)[::-1]
    decay = db(energy / energy[0])
    start, end = np.argmax(decay < -5), np.argmax(decay < -25)
    assert 3 * (end - start) / RATE == pytest.approx(rt60, rel=0.15)


def test_band_pass_takes_speech_and_noise_out_of_the_band():
    condition = dataclasses.replace(PLAIN, band_hz=(300, 3200), snr_db=(10, 10))
    recording = audio.record(voice(), SPEAKER, condition, 1)
    power = np.abs(np.fft.rfft(recording)) ** 2
    frequency = np.fft.rfftfreq(len(recording), 1 / RATE)
    inside = np.mean(power[(frequency > 350) & (frequency < 3000)])
    assert db(np.mean(power[frequency < 120]) / inside) < -30
    assert db(np.mean(power[frequency > 6400]) / inside) < -30
    gain = audio.channel_gain((300, 3200), 16000)
    assert db(gain[300] ** 2) == pytest.approx(-3, abs=0.1)
    assert db(gain[6400] ** 2) == pytest.approx(-36, abs=0.5)


def test_overdrive_flattens_the_peaks():
    speech = voice()
    plain = audio.record(speech, SPEAKER, PLAIN, 1)
    driven = audio.record(speech, dataclasses.replace(SPEAKER, overdrive_db=20.0), PLAIN, 1)

    def crest(x):
        return np.abs(x).max() / np.sqrt(np.mean(x**2))

    assert crest(driven) < 0.4 * crest(plain)
    at_limit = np.abs(driven) > 0.999 * np.abs(driven).max()
    assert 0.1 < np.mean(at_limit) < 0.9


@pytest.mark.parametrize("rate", [32000, 48000])
def test_mp3_is_what_went_in(rate):
    recording = audio.record(voice(), SPEAKER, PLAIN, 1)
    mp3 = audio.encode_mp3(recording, rate)
    assert mp3 == audio.encode_mp3(recording, rate)
    info = soundfile.info(io.BytesIO(mp3))
    assert (info.format, info.samplerate, info.channels) == ("MP3", rate, 1)
    assert info.duration == pytest.approx(len(recording) / RATE, abs=0.06)
    decoded, _ = soundfile.read(io.BytesIO(mp3))
    decoded = decoded[:: rate // RATE][: len(recording)]
    assert np.corrcoef(decoded, recording[: len(decoded)])[0, 1] > 0.97


def test_missing_espeak_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with refusal("apt-get install espeak-ng"):
        audio.check_programs({"gmw/de"}, {"m1"})


def test_unknown_voices_and_variants_are_named():
    audio.check_programs({"gmw/de", "roa/pt-BR"}, {"m1", "whisperf", "klatt4"})
    with refusal("espeak-ng", "gmw/xx"):
        audio.check_programs({"gmw/de", "gmw/xx"}, {"m1"})
    with refusal("espeak-ng", "nobody"):
        audio.check_programs({"gmw/de"}, {"m1", "nobody"})


def test_a_longer_text_is_longer_speech_and_text_is_no_option():
    short = audio.speak("Der Mann.", SPEAKER)
    long = audio.speak("Der Mann kauft am Montag ein rotes Fahrrad im Dorf.", SPEAKER)
    assert 0.3 < len(short) / RATE < len(long) / RATE < 5
    assert np.abs(long).max() > 0.05 and abs(long[0]) < 0.3
    option = audio.speak("--version", SPEAKER)
    shell = audio.speak("Haus; $(exit 3) `exit 3`", SPEAKER)
    assert len(option) > RATE // 4 and len(shell) > RATE // 4


def test_what_espeak_cannot_say_is_an_error():
    with refusal(f"-v {SPEAKER.voice}"):
        audio.speak("", SPEAKER)
    with refusal("exit code 1", "-v gmw/xx"):
        audio.speak("Haus", dataclasses.replace(SPEAKER, voice="gmw/xx"))
