"""Inference on test sets: reads audio, writes hypothesis files; resumes file by file."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lors.checkpoint.places import MASKS, OWN_INFERENCE
from lors.data.datadir import read_text, write_kaldi_text
from lors.done_marker import DoneMarker
from lors.fileio import file_digest, remove_tree
from lors.log import show_progress
from lors.models.family import InferenceOptions, Recogniser
from lors.recipe.eval_set import EvalSet, hypotheses_of, read_eval_set
from lors.recipe.expdir import check_data, check_models, hypothesis_marker, model_digest
from lors.recipe.subnetworks import LanguageModels
from lors.tasks import Pair

BESIDE = {"masks": MASKS, "own_inference": OWN_INFERENCE}
"""Files beside a model that change its hypotheses, under their names in a done marker."""
SHARD = 1000
"""Number of utterances after which an interrupted inference can go on."""
log = logging.getLogger(__name__)


def infer(
    work: Sequence[tuple[Pair, Path, Path]],
    dump: str | os.PathLike,
    split: str,
    options: InferenceOptions,
    device: str = "cpu",
) -> None:
    """Write hypothesis files; finished files are skipped.

    An interrupted test set continues after its last shard of `SHARD` utterances.

    Args:
        work: (pair, model directory, hypothesis file) of each test set.
        dump: data directories ``<lang>/<split>``.
        split: name of the split.
        options: settings of inference.
        device: torch device.

    Raises:
        LorsError: models or data directories are missing (all of them are listed), or a
            hypothesis file was made with other settings.
    """
    work = sorted(work, key=lambda unit: str(unit[1]))
    check_models(model_dir for _, model_dir, _ in work)
    check_data(Path(dump) / pair.lang / split for pair, _, _ in work)
    model_digest_of = functools.cache(model_digest)
    models = LanguageModels(device)
    eval_sets: dict[str, EvalSet] = {}
    for pair, model_dir, out in tqdm(work, unit="test set", disable=not show_progress()):
        directory = Path(dump) / pair.lang / split
        marker = DoneMarker(
            hypothesis_marker(out),
            {
                "model": model_digest_of(model_dir),
                **{
                    name: file_digest(model_dir / file)
                    for name, file in BESIDE.items()
                    if (model_dir / file).exists()
                },
                "data": file_digest(directory / "utt2dur"),
                "options": options.settings(),
            },
        )
        if marker.is_done() and out.exists():
            continue
        with marker.work():
            model = models.model(model_dir, pair.lang)
            if pair.lang not in eval_sets:
                eval_sets[pair.lang] = read_eval_set(directory)
            _infer_one(model, eval_sets[pair.lang], pair, options, out)
        log.info("%s", out)


def _infer_one(
    model: Recogniser, eval_set: EvalSet, pair: Pair, options: InferenceOptions, out: Path
) -> None:
    shards = out.with_name(f".{out.name}.shards")
    texts: dict[str, str] = {}
    for start in range(0, len(eval_set.ids), SHARD):
        shard = shards / f"{start:09d}"
        if not shard.exists():
            part = slice(start, start + SHARD)
            write_kaldi_text(shard, hypotheses_of(model, eval_set, pair, options, part))
        texts.update(read_text(shard))
    write_kaldi_text(out, texts)
    remove_tree(shards)
