"""Vocabulary of a new ESPnet S2T model: sentencepiece BPE and the symbols of prompts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lors.errors import LorsError
from lors.fileio import atomic_write, write_text
from lors.models.espnet_s2t.prompts import special_symbols


def train_tokenizer(
    texts: Iterable[str],
    out: str | os.PathLike,
    *,
    langs: Sequence[str],
    vocab_size: int,
    speech_length: float,
    speech_resolution: float,
) -> None:
    """Train a BPE model and write ``bpe.model`` and ``tokens.txt`` into `out`.

    Args:
        texts: training sentences of all languages, transcripts and translations.
        langs: languages (Common Voice codes) that get a symbol.
        vocab_size: number of BPE pieces, without the symbols of prompts.
        speech_length: seconds that the model pads speech to.
        speech_resolution: seconds between two timestamp symbols.

    Raises:
        LorsError: the texts do not fit a vocabulary of this size.
    """
    import sentencepiece

    symbols = special_symbols(langs, speech_length, speech_resolution)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab_size + len(symbols) + 3,  # <unk> and sentencepiece's own <s> </s>
            model_type="bpe",
            character_coverage=1.0,
            user_defined_symbols=symbols,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise LorsError(
            "cannot train a tokenizer",
            expected=f"texts for {vocab_size} BPE pieces",
            got=str(error),
            hint="give more text, or the vocabulary size that the message asks for",
        ) from None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    known = {"<unk>", "<s>", "</s>", *symbols}
    learnt = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    tokens = ["<blank>", "<unk>", *symbols, *(p for p in learnt if p not in known)]
    out = Path(out)
    with atomic_write(out / "bpe.model", "wb") as handle:
        handle.write(model.getvalue())
    write_text(out / "tokens.txt", "".join(f"{token}\n" for token in [*tokens, "<sos>", "<eos>"]))
