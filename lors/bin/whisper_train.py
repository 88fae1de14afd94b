"""Train Whisper through ESPnet; the options are those of any ESPnet task (--help)."""

from __future__ import annotations

import argparse

from lors.models.whisper.task import WhisperTask


def get_parser() -> argparse.ArgumentParser:
    """Return the parser, for ESPnet's documentation tools."""
    return WhisperTask.get_parser()


def main(cmd: list[str] | None = None) -> None:
    WhisperTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
