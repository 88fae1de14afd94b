"""Window of Whisper: seconds that speech is padded to, and positions of the encoder.

Whisper is trained on windows of 30 s and is unreliable on shorter ones. But most of a window is the
silence after the speech. With the window ``auto`` the encoder sees 30 s at a fraction of the cost:

- It computes all positions of the speech and of a margin after it, together the *head*. The head is
  rounded up to whole steps, so that utterances of a similar length make one batch.
- In the silence after the head, one position stands for a *block* of neighbours. It counts in every
  attention as often as the block has positions: the logarithm of that number is added to the
  attention's scores. The result would be exact if all positions of a block had equal keys and
  values; they differ in the positional embedding alone.

The head and the blocks of an utterance depend on its length alone. Idea and constants are of LoRS;
egs/voice_prompts/lors1/RESULTS.md, "Window of Whisper", has the measurements behind the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lors.export.whisper_audio import SAMPLES_PER_POSITION, SAMPLING_RATE

AUTO = "auto"
MARGIN = 0.5
"""Seconds of silence in the head."""
STEP = 0.5
"""Seconds that the length of a head is a multiple of."""
BLOCK = 32
"""Positions of silence for which one is computed."""


@dataclass(frozen=True)
class Window:
    """The window of a model.

    Attributes:
        value: ``auto``, or seconds that speech is padded or trimmed to.
        positions: positions of the model's encoder; 1500 in official models.
        margin, block: for ``auto``, seconds of silence in the head, and size of a block.
    """

    value: float | str
    positions: int
    margin: float = MARGIN
    block: int = BLOCK

    @property
    def is_auto(self) -> bool:
        return self.value == AUTO

    @property
    def longest(self) -> float:
        """Longest speech in seconds."""
        if isinstance(self.value, str):  # auto
            return self.positions * SAMPLES_PER_POSITION / SAMPLING_RATE
        return self.value

    def samples(self, speech: int) -> int:
        """Return the number of samples that speech is padded or trimmed to.

        For ``auto`` these are the samples of the head.

        Args:
            speech: number of samples of the speech.
        """
        if not isinstance(self.value, str):
            return round(self.value * SAMPLING_RATE)
        steps = math.ceil((speech / SAMPLING_RATE + self.margin) / STEP)
        return min(round(steps * STEP * SAMPLING_RATE), self.positions * SAMPLES_PER_POSITION)

    def layout(self, samples: int) -> list[tuple[int, int]]:
        """Return the computed positions of padded speech, each with the positions it stands for.

        Args:
            samples: number of samples, from :meth:`samples`.
        """
        head = samples // SAMPLES_PER_POSITION
        layout = [(position, 1) for position in range(head)]
        if self.is_auto:
            for start in range(head, self.positions, self.block):
                size = min(self.block, self.positions - start)
                layout.append((start + (size - 1) // 2, size))
        return layout
