"""Constants of the audio of all Whisper models; source: ``whisper/audio.py`` of openai-whisper.

A module without torch, which is slow to import.
"""

from __future__ import annotations

SAMPLING_RATE = 16000
N_FFT = 400
HOP_LENGTH = 160
"""Sampling rate (Hz), window and hop (samples) of the features."""
SAMPLES_PER_POSITION = 2 * HOP_LENGTH
"""Samples for one position of the encoder: its second convolution halves the number of frames."""
POSITIONS_PER_SECOND = SAMPLING_RATE // SAMPLES_PER_POSITION
POSITIONS = 30 * POSITIONS_PER_SECOND
"""Positions of the encoder in every official model: 30 s."""
