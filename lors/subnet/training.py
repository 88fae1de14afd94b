"""Train one model under the masks of its languages: each batch sees and changes one sub-network.

In the forward pass of a batch, all entries of the matrices outside the mask of its language are
zero. The gradient there is zero too; a step of the optimiser changes neither these entries nor
their state (all that it keeps for each entry, as the moments of Adam), bit for bit, whatever it
does with a zero gradient (weight decay, momentum). Adam and AdamW correct the moments of an
entry by its own number of updates (:mod:`lors.subnet.adam`). All other tensors (biases, norms,
embeddings, convolutions, output layers) belong to all languages and learn from every batch.

Between the forward pass and the next one the outside entries are zero in the model. They are put
back before anything reads the model's state dict, so that a checkpoint has all weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lors.checkpoint.masks import Masks
from lors.errors import LorsError, shortened
from lors.subnet.adam import count_own_updates


class SubnetworkTraining:
    """Applies the masks of languages to a model in training.

    Args:
        model: the model; its forward pass gets the utterances of a batch as ``utt_id``.
        masks: masks of its matrices.
        language_of: utterance -> language.

    Raises:
        UsageError: a language without a mask.
        LorsError: the masks do not fit the model.
    """

    def __init__(self, model: nn.Module, masks: Masks, language_of: Mapping[str, str]):
        self.language_of = language_of
        parameters = dict(model.named_parameters())
        _check_fit(parameters, masks)
        masks.check_languages(language_of.values())
        self._parameters = {name: parameters[name] for name in masks.shapes}
        self._outside = {
            lang: {
                name: ~masks.mask(lang, name).to(parameter.device)
                for name, parameter in self._parameters.items()
            }
            for lang in sorted(set(language_of.values()))
        }
        self.language: str | None = None
        self._kept: dict[str, Tensor] = {}
        self._state: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                parameter.register_hook(lambda grad, name=name: self._inside(name, grad))
        model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        model.register_state_dict_pre_hook(lambda *_: self.leave())

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the entries outside the mask, and their state, from the steps of an optimiser."""
        optimizer.register_step_pre_hook(lambda optimizer, *_: self._before_step(optimizer))
        optimizer.register_step_post_hook(lambda optimizer, *_: self._after_step(optimizer))

    def enter(self, lang: str) -> None:
        """Set all entries outside the mask of a language to zero until :meth:`leave`."""
        self.leave()
        self.language = lang
        for name, parameter in self._parameters.items():
            self._kept[name] = parameter.data.clone()
            parameter.data.masked_fill_(self._outside[lang][name], 0)

    def leave(self) -> None:
        """Put the entries outside the mask back; those inside keep what they have learnt."""
        if self.language is None:
            return
        for name, kept in self._kept.items():
            _put_back(self._parameters[name].data, self._outside[self.language][name], kept)
        self._kept.clear()
        self.language = None

    def _before_forward(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.enter(self._language(kwargs["utt_id"]))

    def _language(self, utterances: Sequence[str]) -> str:
        langs = sorted({self.language_of[utterance] for utterance in utterances})
        if len(langs) != 1:
            raise LorsError(
                "a batch of several languages has no mask",
                expected="batches of one language each",
                got=f"{', '.join(langs)}: {', '.join(shortened(utterances))}",
                hint="set batch_type: folded in the training configuration",
            )
        return langs[0]

    def _inside(self, name: str, grad: Tensor) -> Tensor:
        # Not a product with the mask: infinity times zero is NaN.
        return grad.masked_fill(self._outside_now()[name], 0)

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                # Zero since the backward pass, unless noise was added (ESPnet's grad_noise).
                parameter.grad.masked_fill_(self._outside_now()[name], 0)
        self._state = {
            name: {key: value.clone() for key, value in _moments(optimizer, parameter).items()}
            for name, parameter in self._parameters.items()
        }

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.item():
            # A fused optimiser leaves out a step that overflows in float16, and comes here too.
            self._state = {}
            return
        # The weights outside are put back by leave().
        for name, before in self._state.items():
            parameter, outside = self._parameters[name], self._outside_now()[name]
            moments = _moments(optimizer, parameter)
            for key, value in before.items():
                _put_back(moments[key], outside, value)
            if parameter.grad is not None:
                count_own_updates(optimizer, parameter, self._kept[name], ~outside)
        self._state = {}

    def _outside_now(self) -> Mapping[str, Tensor]:
        """Return the entries outside the mask of the current batch's language."""
        if self.language is None:
            raise RuntimeError("no forward pass before this step")
        return self._outside[self.language]


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return the state that an optimiser has for every entry of a parameter."""
    state = optimizer.state.get(parameter, {})
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    }


def _put_back(values: Tensor, outside: Tensor, earlier: Tensor) -> None:
    torch.where(outside, earlier, values, out=values)


def _check_fit(parameters: Mapping[str, Tensor], masks: Masks) -> None:
    problems = [
        f"{name}: {list(shape)}"
        for name, shape in masks.shapes.items()
        if name not in parameters or tuple(parameters[name].shape) != shape
    ]
    if problems:
        raise LorsError(
            "these masks do not fit the model",
            where=masks.path,
            expected="the matrices of the model that is trained",
            got=shortened(problems),
            hint="find masks on the base model of this training",
        )
