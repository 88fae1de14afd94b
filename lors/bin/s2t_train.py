"""Train an S2T model through ESPnet; the options are those of espnet2.bin.s2t_train (--help)."""

from __future__ import annotations

import argparse

from lors.models.espnet_s2t.task import S2TTask


def get_parser() -> argparse.ArgumentParser:
    """Return the parser, for ESPnet's documentation tools."""
    return S2TTask.get_parser()


def main(cmd: list[str] | None = None) -> None:
    S2TTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
