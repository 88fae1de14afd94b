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
from lors.subnet.adam import UPDATES, count_own_updates


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
        self._masks = {
            lang: {
                name: -masks.mask(lang, name).to(parameter.device, torch.int8)
                for name, parameter in self._parameters.items()
            }
            for lang in sorted(set(language_of.values()))
        }
        self.language: str | None = None
        # Copies of what has to be put back. They keep their memory: to ask the system for it again
        # in every step takes as long as the copy.
        self._kept: dict[str, Tensor] = {}
        self._state: dict[str, dict[str, Tensor]] = {name: {} for name in self._parameters}
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
            _copy(self._kept, name, parameter.data)
            _clear_outside(parameter.data, self._masks[lang][name])

    def leave(self) -> None:
        """Put the entries outside the mask back; those inside keep what they have learnt."""
        if self.language is None:
            return
        for name, parameter in self._parameters.items():
            _put_back(parameter.data, self._masks[self.language][name], self._kept[name])
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
        return _clear_outside(grad.clone(), self._mask_now(name))

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                # Zero since the backward pass, unless noise was added (ESPnet's grad_noise).
                _clear_outside(parameter.grad, self._mask_now(name))
            moments = _moments(optimizer, parameter)
            if not moments:  # the first step of an optimiser
                self._state[name].clear()
            for key, value in moments.items():
                _copy(self._state[name], key, value)

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.item():
            # A fused optimiser leaves out a step that overflows in float16, and comes here too.
            return
        # The weights outside are put back by leave().
        for name, parameter in self._parameters.items():
            inside = self._mask_now(name)
            for key, value in _moments(optimizer, parameter).items():
                # State that this step has made is that of zero gradients outside.
                if key in self._state[name]:
                    _put_back(value, inside, self._state[name][key])
            if parameter.grad is not None:
                count_own_updates(optimizer, parameter, self._kept[name], inside)

    def _mask_now(self, name: str) -> Tensor:
        """Return the mask of a matrix for the language of the current batch."""
        if self.language is None:
            raise RuntimeError("no forward pass before this step")
        return self._masks[self.language][name]


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return the state that an optimiser has for every entry of a parameter."""
    state = optimizer.state.get(parameter, {})
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and key != UPDATES
    }


def _copy(copies: dict[str, Tensor], key: str, values: Tensor) -> None:
    """Copy a tensor to where an earlier copy of it is."""
    if key in copies:
        copies[key].copy_(values)
    else:
        copies[key] = values.clone()


def _bits(values: Tensor) -> Tensor:
    """Return the same memory as integers: their bits are masked several times as fast as numbers.

    A product with the mask would not do: infinity times zero is NaN.
    """
    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


def _clear_outside(values: Tensor, inside: Tensor) -> Tensor:
    """Set all entries outside a mask (int8: -1 inside, 0 outside) to zero, in place."""
    _bits(values).bitwise_and_(inside)
    return values


def _put_back(values: Tensor, inside: Tensor, earlier: Tensor) -> None:
    """Give all entries outside a mask the bits that they had in a copy, in place."""
    bits, before = _bits(values), _bits(earlier)
    bits.bitwise_xor_(before).bitwise_and_(inside).bitwise_xor_(before)


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
