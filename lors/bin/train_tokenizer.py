"""Command line of :func:`lors.models.espnet_s2t.tokens.train_tokenizer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lors.config import read_yaml
from lors.data.datadir import read_data_dir
from lors.errors import LorsError, UsageError
from lors.log import run_main
from lors.models.espnet_s2t.tokens import train_tokenizer
from lors.recipe.names import check_names


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lors.bin.train_tokenizer",
        description="Train the BPE vocabulary of a new S2T model on the transcripts and "
        "translations of the training data.",
    )
    parser.add_argument("--dump", required=True, help="data directories <lang>/train")
    parser.add_argument("--langs", nargs="+", required=True)
    parser.add_argument("--config", required=True, help="training options with preprocessor_conf")
    parser.add_argument("--vocab_size", type=int, required=True, help="number of BPE pieces")
    parser.add_argument("--out", required=True, help="receives bpe.model and tokens.txt")
    return parser


def work(args: argparse.Namespace) -> None:
    check_names(vars(args))
    conf = read_yaml(args.config).get("preprocessor_conf") or {}
    missing = [name for name in ("speech_length", "speech_resolution") if name not in conf]
    if missing:
        raise UsageError(
            "the training configuration lacks the values for timestamp symbols",
            where=args.config,
            expected=f"preprocessor_conf with {' and '.join(missing)}",
        )
    train_tokenizer(
        list(_texts(Path(args.dump), args.langs)),  # sentencepiece hides an error in an iterator
        args.out,
        langs=args.langs,
        vocab_size=args.vocab_size,
        speech_length=conf["speech_length"],
        speech_resolution=conf["speech_resolution"],
    )


def _texts(dump: Path, langs: Sequence[str]) -> Iterator[str]:
    """Yield the transcripts and translations of the training data."""
    for lang in langs:
        for utterance in read_data_dir(dump / lang / "train"):
            if utterance.text is None:
                raise LorsError("data without transcripts", where=dump / lang / "train/text")
            yield utterance.text
            yield from utterance.translations.values()


def main(argv: list[str] | None = None) -> int:
    return run_main(get_parser(), work, argv)


if __name__ == "__main__":
    sys.exit(main())
