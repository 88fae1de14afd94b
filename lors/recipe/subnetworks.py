"""Masks and sub-networks of the languages of an experiment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lors.checkpoint.places import MASKS, RECIPE_MODEL, masks_in, model_in
from lors.done_marker import DoneMarker
from lors.errors import LorsError, UsageError
from lors.fileio import file_digest, path_component, replace_link
from lors.recipe.expdir import IMPORTANCE, ExpDir, check_models, model_digest, subnet_system
from lors.subnet.criteria import BY_TAYLOR, ONE_FOR_ALL, Criterion
from lors.tasks import pairs_of

if TYPE_CHECKING:
    from torch import Tensor

    from lors.models.family import Recogniser
    from lors.subnet.find import Scope

log = logging.getLogger(__name__)

OF_MASKS, OF_SCORES = "masks", "importance"
"""Directories of an experiment; those of a pre-training are links."""


def find_masks_of(
    expdir: ExpDir,
    langs: Sequence[str],
    tasks: Sequence[str],
    criterion: Criterion,
    rate: int,
    scope: Scope,
) -> None:
    """Find the masks of the languages by one criterion and rate; finished masks are kept.

    Args:
        expdir: holds the base model, and the experts (``magnitude``, ``common``) or the scores of
            :mod:`lors.bin.importance` (``taylor``, ``common_taylor``).
        langs, tasks: languages, and tasks of their experts.
        criterion, rate, scope: as for :func:`lors.subnet.find.find_masks`.

    Raises:
        LorsError: models or scores are missing, or masks with other settings or of a pre-training
            are there.
        UsageError: a wrong rate.
    """
    check_own(expdir.root / OF_MASKS)
    out = expdir.masks(subnet_system(criterion, rate)).parent
    by_taylor = criterion in BY_TAYLOR
    if by_taylor:
        sources = {lang: [expdir.importance(lang) / IMPORTANCE] for lang in langs}
        check_models([expdir.base])
        _check_scores([file for of in sources.values() for file in of])
    else:
        sources = {
            lang: [expdir.expert(pair) for pair in pairs_of([lang], tasks)] for lang in langs
        }
        check_models([expdir.base, *_all_of(sources)])
    digest = file_digest if by_taylor else model_digest
    inputs = {
        "base": model_digest(expdir.base),
        "sources": {lang: [digest(source) for source in of] for lang, of in sources.items()},
        "scope": scope,
    }
    marker = DoneMarker(out / ".done", inputs)
    if marker.is_done():
        return
    from lors.checkpoint.expert import open_model  # torch is slow to import: only if there is work
    from lors.models import family_of
    from lors.subnet.find import find_masks, magnitude_scores, taylor_scores

    with marker.work():
        base = open_model(expdir.base / "model.pth")
        if criterion in ONE_FOR_ALL:
            sources = dict.fromkeys(langs, _all_of(sources))
        scores = {
            lang: taylor_scores(base, of)
            if by_taylor
            else magnitude_scores(base, [model_in(expert) for expert in of])
            for lang, of in sources.items()
        }
        # The policy of merges, whose masks these may be.
        policy = family_of(expdir.base).policy
        find_masks(out / MASKS, base, scores, criterion, rate, scope, policy)
    log.info("%s", out / MASKS)


def _all_of(sources: Mapping[str, Sequence[Path]]) -> list[Path]:
    return [source for of in sources.values() for source in of]


def _check_scores(files: Sequence[Path]) -> None:
    if missing := [file for file in files if not file.exists()]:
        raise LorsError(
            "Taylor scores are missing", got=missing, hint="run the stage importance of the recipe"
        )


def check_own(directory: Path) -> None:
    """Check that masks or scores written to a directory do not end in another experiment.

    Raises:
        LorsError: the directory is a link, as :func:`take_masks` makes it.
    """
    if directory.is_symlink():
        raise LorsError(
            "the masks of this experiment are those of a pre-training",
            where=directory,
            expected="a directory of its own",
            got=f"a link to {directory.resolve()}",
            hint="give the --pretrained of the earlier call, or choose another --expdir",
        )


def take_masks(
    expdir: ExpDir, pretrained: ExpDir, systems: Sequence[str], langs: Sequence[str], scope: Scope
) -> None:
    """Make the masks of a pre-training, and the scores behind them, those of an experiment: links.

    Args:
        expdir: the experiment.
        pretrained: the experiment of the pre-training.
        systems: systems that are trained under masks.
        langs: languages.
        scope: scope that the masks must have.

    Raises:
        LorsError: masks are missing or have another scope, the base models differ, or the
            experiment has masks of its own.
        UsageError: a language without a mask.
    """
    from lors.checkpoint.expert import open_model  # torch is slow to import
    from lors.checkpoint.masks import Masks

    base = open_model(expdir.base / RECIPE_MODEL)
    for system in systems:
        masks = Masks(pretrained.masks(system))
        masks.check_base(base)
        masks.check_languages(langs)
        if masks.settings.get("scope") != scope:
            raise LorsError(
                "the masks of the pre-training have another scope",
                where=masks.path,
                expected=scope,
                got=masks.settings.get("scope"),
                hint="give the --mask_scope of the pre-training",
            )
    for name in (OF_MASKS, OF_SCORES):
        source, link = pretrained.root / name, expdir.root / name
        if link.is_dir() and not link.is_symlink():
            raise LorsError(
                "this experiment has masks of its own",
                where=link,
                expected=f"those of {source}",
                hint="choose another --expdir",
            )
        if source.is_dir():
            replace_link(link, os.path.relpath(source.resolve(), expdir.root.resolve()))


def masks_used(expdir: ExpDir, settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the digests of the masks in settings of merges, for a done marker; empty without."""
    names = {setting["masks"] for setting in settings if "masks" in setting}
    files = {name: masks_called(expdir, name) for name in sorted(names, key=str)}
    digests = {name: file_digest(file) for name, file in files.items() if file.exists()}
    return {"masks": digests} if names else {}


def masks_called(expdir: ExpDir, name: str) -> Path:
    """Return the file of the masks of an experiment that a setting names, e.g. ``taylor_30``."""
    return expdir.masks(path_component(name, "masks of a merge", UsageError))


class LanguageModels:
    """Loads models for inference; a model with masks has the mask of one language at a time.

    Args:
        device: torch device.
    """

    def __init__(self, device: str):
        self.device = device
        self._directory: Path | None = None
        self._model: Recogniser | None = None
        self._lang: str | None = None

    def model(self, directory: Path, lang: str) -> Recogniser:
        """Return the model of a directory, restricted to a language's mask if it has masks.

        Raises:
            LorsError: a file is missing or damaged.
            UsageError: the model has masks, but none of this language.
        """
        from lors.models import open_recogniser  # torch is slow to import

        if self._directory != directory:
            self._model, self._lang = open_recogniser(directory, self.device), None
            self._directory = directory
        assert self._model is not None
        masks = masks_in(directory)
        if masks is not None and self._lang != lang:
            self._model.load_state(subnetwork_state(directory, masks, lang))
            self._lang = lang
        return self._model


def subnetwork_state(directory: Path, masks: Path, lang: str) -> dict[str, Tensor]:
    """Return the weights of a language's sub-network of the model in a directory, by its masks.

    Raises:
        LorsError: a file is damaged, or the masks do not fit the model.
        UsageError: no mask of this language.
    """
    from lors.checkpoint.masks import Masks
    from lors.checkpoint.reader import Checkpoint

    return Masks(masks).restricted(Checkpoint.open(model_in(directory)), lang)
