"""Train wav2vec 2.0 through ESPnet; the options are those of any ESPnet task (--help)."""

from __future__ import annotations

import argparse

from lors.models.wav2vec2.task import Wav2Vec2Task


def get_parser() -> argparse.ArgumentParser:
    """Return the parser, for ESPnet's documentation tools."""
    return Wav2Vec2Task.get_parser()


def main(cmd: list[str] | None = None) -> None:
    Wav2Vec2Task.main(cmd=cmd)


if __name__ == "__main__":
    main()
