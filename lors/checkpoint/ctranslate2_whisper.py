"""Whisper in CTranslate2's form, under OpenAI's names.

CTranslate2 stacks the matrices that read the same input: query, key and value of a self-attention,
key and value of a cross-attention. Source: ``ctranslate2/specs/whisper_spec.py`` and
``WhisperLoader`` in ``ctranslate2/converters/transformers.py``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lors.checkpoint.ctranslate2_file import SCALE, CTranslate2File, Variable
from lors.errors import LorsError, shortened

log = logging.getLogger(__name__)

ARCHITECTURE = ("WhisperSpec", 3)
"""Name and revision of the architecture, as CTranslate2 4 writes it."""
NEEDED_SETTINGS = {"decoder/pre_norm": 1, "decoder/activation": 3}
"""Setting -> its value in a Whisper; activation 3 is GELU."""
HEADS = ("encoder/num_heads", "decoder/num_heads")
FREE_SETTINGS = frozenset((*HEADS, "decoder/alignment_layer", "decoder/alignment_heads"))
"""Settings that do not change what the weights mean. Every other setting must be 0 (off)."""
EMBEDDING, PROJECTION = "decoder/embeddings/weight", "decoder/projection/weight"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
QUANTISED = (torch.int8, torch.int16)


@dataclass(frozen=True)
class Place:
    """Where the values of a tensor are: one of several equal parts of a variable, by its rows."""

    variable: str
    part: int = 0
    parts: int = 1


class CTranslate2Whisper:
    """A Whisper in a ``model.bin``.

    A quantised weight is read in float32, as its integers divided by the scale of their row.

    Args:
        path: the file.

    Attributes:
        spec: OpenAI's name of every tensor -> its shape and dtype.

    Raises:
        LorsError: as :class:`CTranslate2File`; the model has other variables or settings than a
            Whisper, a bias of a key, or an output layer that is not tied to the embedding.
    """

    def __init__(self, path: Path):
        self._file = CTranslate2File(path, ARCHITECTURE)
        self._places = _places(self._file.variables)
        problems = [*_problems(self._file, self._places), *self._setting_problems()]
        if problems:
            raise LorsError(
                "this CTranslate2 model is not a complete Whisper",
                where=path,
                got=shortened(problems, 20),
                hint="convert the model again, or give the model that was converted",
            )
        self.spec = {
            name: self._spec(place)
            for name, place in self._places.items()
            if not _is_bias_of_key(name)
        }
        self._check_absent_tensors()
        variables = [self._file.variables[self._places[name].variable] for name in self.spec]
        dtypes = {v.dtype for v in variables if v.dtype in QUANTISED}
        if dtypes:
            log.warning(
                "%s: the weights were rounded to %s when the model was converted; better give the "
                "model that was converted",
                path,
                " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
            )

    def tensor(self, name: str) -> Tensor:
        """Return a new tensor; KeyError if the name is unknown."""
        if name not in self.spec:
            raise KeyError(name)
        return self._values(self._places[name])

    def _setting_problems(self) -> Iterator[str]:
        for name, variable in self._file.variables.items():
            if not _is_setting(name, variable) or name in FREE_SETTINGS:
                continue
            needed, got = NEEDED_SETTINGS.get(name, 0), self._file.values(variable).item()
            if got != needed:
                yield f"{name}: {got:g}, in a Whisper {needed}"

    def _spec(self, place: Place) -> tuple[tuple[int, ...], torch.dtype]:
        variable = self._file.variables[place.variable]
        rows, *others = variable.shape
        dtype = torch.float32 if variable.dtype in QUANTISED else variable.dtype
        return (rows // place.parts, *others), dtype

    def _values(self, place: Place) -> Tensor:
        variable = self._file.variables[place.variable]
        rows = variable.shape[0] // place.parts
        kept = slice(place.part * rows, (place.part + 1) * rows)
        values = self._file.values(variable, kept)
        if variable.dtype not in QUANTISED:
            return values
        # Quantised as round(value * scale): LayerSpec._quantize in model_spec.py.
        scale = self._file.scales[place.variable]
        scales = self._file.values(scale, kept if scale.shape else slice(None))
        if not (torch.isfinite(scales) & (scales > 0)).all():
            raise LorsError(
                "the scale of a quantised weight is not a positive number",
                where=f"{self._file.path}: {place.variable}",
                hint="the file is damaged: copy or download it again",
            )
        return values.float().div_(scales.reshape(-1, *[1] * (values.ndim - 1)))

    def _check_absent_tensors(self) -> None:
        """Check what OpenAI's form leaves out: a bias of keys, and the output layer."""
        biases = [name for name in self._places if _is_bias_of_key(name)]
        problems = [
            f"{name}: not 0" for name in biases if self._values(self._places[name]).any().item()
        ]
        embedding, projection = (self._file.variables[name] for name in (EMBEDDING, PROJECTION))
        if projection != embedding and not torch.equal(
            self._values(Place(PROJECTION)), self._values(Place(EMBEDDING))
        ):
            problems.append(f"{PROJECTION}: another matrix than {EMBEDDING}, to which it is tied")
        if problems:
            raise LorsError(
                "this model has weights that a Whisper does not have",
                where=self._file.path,
                got=shortened(problems, 20),
                hint="train without a bias of the keys and with tied word embeddings, the defaults "
                "of the model",
            )


def heads_in(path: Path) -> tuple[int, int] | None:
    """Return the numbers of attention heads of encoder and decoder; None if not in the file.

    Raises:
        LorsError: as :class:`CTranslate2File`.
    """
    file = CTranslate2File(path, ARCHITECTURE)
    found = [file.variables[name] for name in HEADS if name in file.variables]
    if len(found) < len(HEADS) or any(v.shape or v.dtype.is_floating_point for v in found):
        return None
    encoder, decoder = (int(file.values(variable).item()) for variable in found)
    return encoder, decoder


def _is_setting(name: str, variable: Variable) -> bool:
    """Return whether a variable is a single number; the scale of a weight in int16 is one too."""
    return not variable.shape and not name.endswith(f"/weight{SCALE}")


def _is_bias_of_key(name: str) -> bool:
    return name.endswith("attn.key.bias")


def _places(variables: Mapping[str, Variable]) -> dict[str, Place]:
    """Return OpenAI's names, and the biases of the keys -> where their values are.

    The names are those of a Whisper with as many layers as the file, in OpenAI's order.
    """
    found: dict[str, Place] = {}
    layers: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for name in variables:
        match = re.match(r"(encoder|decoder)/layer_(\d+)/", name)
        if match:
            layers[match[1]].add(int(match[2]))
    for side, last in (("encoder", "ln_post"), ("decoder", "ln")):
        found[f"{side}.positional_embedding"] = Place(f"{side}/position_encodings/encodings")
        if side == "encoder":
            for conv in ("conv1", "conv2"):
                found |= _linear(f"encoder/{conv}", f"encoder.{conv}")
        else:
            found["decoder.token_embedding.weight"] = Place(EMBEDDING)
        for layer in range(len(layers[side])):
            found |= _block(f"{side}/layer_{layer}", f"{side}.blocks.{layer}", side == "decoder")
        found |= _norm(f"{side}/layer_norm", f"{side}.{last}")
    return found


def _block(theirs: str, ours: str, reads_encoder: bool) -> dict[str, Place]:
    first = ("query", "key", "value")
    found = _attention(f"{theirs}/self_attention", f"{ours}.attn", [first])
    if reads_encoder:
        found |= _attention(f"{theirs}/attention", f"{ours}.cross_attn", [first[:1], first[1:]])
    found |= _linear(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
    found |= _linear(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
    return found | _norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")


def _attention(theirs: str, ours: str, stacks: list[tuple[str, ...]]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for number, stack in enumerate((*stacks, ("out",))):
        names = [f"{ours}.{name}" for name in stack]
        found |= _linear(f"{theirs}/linear_{number}", *names)
    return found | _norm(f"{theirs}/layer_norm", f"{ours}_ln")


def _linear(theirs: str, *ours: str) -> dict[str, Place]:
    return {
        f"{name}.{kind}": Place(f"{theirs}/{kind}", part, len(ours))
        for part, name in enumerate(ours)
        for kind in ("weight", "bias")
    }


def _norm(theirs: str, ours: str) -> dict[str, Place]:
    return {
        f"{ours}.weight": Place(f"{theirs}/gamma"),
        f"{ours}.bias": Place(f"{theirs}/beta"),
    }


def _problems(file: CTranslate2File, places: Mapping[str, Place]) -> Iterator[str]:
    """Yield what is missing, superfluous or of another form in the variables of a Whisper."""
    needed = {place.variable: place.parts for place in places.values()} | {PROJECTION: 1}
    for name, variable in file.variables.items():
        known = name in needed or _is_setting(name, variable)
        of = name.removesuffix(SCALE)
        # An alias has the scale of its variable.
        if not known and not (of != name and file.scales.get(of) is variable):
            yield f"{name}: not a variable of Whisper"
    for name, parts in needed.items():
        if name not in file.variables:
            yield f"{name}: missing"
        else:
            yield from _form_problems(file, name, parts)


def _form_problems(file: CTranslate2File, name: str, parts: int) -> Iterator[str]:
    variable, scale = file.variables[name], file.scales.get(name)
    if not variable.shape or variable.shape[0] % parts or not math.prod(variable.shape):
        yield f"{name}: shape {list(variable.shape)}"
    elif variable.dtype in QUANTISED:
        if scale is None:
            yield f"{name}: {variable.dtype} without {SCALE.removeprefix('_')}"
        elif scale.dtype != torch.float32 or scale.shape not in ((), variable.shape[:1]):
            yield f"{name}{SCALE}: {scale.dtype}, shape {list(scale.shape)}"
    elif variable.dtype not in FLOATS:
        yield f"{name}: {variable.dtype}"
    elif scale is not None:
        yield f"{name}: {variable.dtype} with a scale"
