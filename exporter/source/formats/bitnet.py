"""BitNet's ternary weights (Ma et al. 2024; ``quant_method`` "bitnet"), as transformers stores and makes them.

offline: ``weight`` uint8 (rows / 4, columns) and ``weight_scale`` (1,). Row r of the weight is in the stored row
r mod (rows / 4), bits 2 ⌊r / (rows / 4)⌋ and up: 0, 1, 2 for −1, 0, 1. Their unit is the scale (``linear_class``
"autobitlinear", as Microsoft's models have it) or one over it ("bitlinear").

online: ``weight`` in floats, of which transformers makes ternary ones at each call: w / m rounded to −1, 0, 1, times m,
the mean magnitude of the whole tensor.

What goes into these layers is rounded to 8 bits a token there, which is no matter of how they are stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.packed import Codes, GridTensor, packed_as, partner, wrong
from edgepress.exporter.source.stored import READABLE, StoredTensor, to_float32

_IN_A_BYTE = 4
_ZERO = 2  # the code of 0 in two bits: the middle of the grid
_LEAST = np.float32(1e-5)  # of a mean magnitude
_PIECE = 1 << 20  # elements read at once for the mean
_LINEAR = re.compile(r".*\blayers\.\d+\..*_proj\.weight")
_BITS, _WHOLE_ROW = 2, 0


@dataclass(frozen=True, kw_only=True)
class TernaryWeight(GridTensor):
    """A weight of (rows, columns); ``stored`` is the packed codes and the scale."""

    inverse: bool  # whether the unit is one over the scale

    @cached_property
    def unit(self) -> np.float32:
        """What 1 stands for."""
        scale = to_float32(self.stored[1].read(0, self.stored[1].nbytes), self.stored[1].dtype)[0]
        return np.float32(1) / scale if self.inverse else np.float32(scale)

    def zero_points(self, start: int, stop: int) -> None:  # noqa: ARG002 - each is the middle
        """Each is the middle."""
        return

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        height = self.stored[0].shape[0]
        out = np.empty((stop - start, self.shape[1]), np.uint8)
        row = start
        while row < stop:  # a run of stored rows for each pair of bits
            shift, first = divmod(row, height)
            count = min(height - first, stop - row)
            raw = self.stored[0].read(first * self.shape[1], count * self.shape[1]).reshape(count, -1)
            out[row - start : row - start + count] = (raw >> np.uint8(2 * shift)) & np.uint8(3)
            row += count
        return Codes(out + np.uint8(_ZERO - 1), np.full((stop - start, 1), self.unit, np.float32))


@dataclass(frozen=True, kw_only=True)
class RoundedWeight(GridTensor):
    """A weight in floats that is meant to be ternary; ``stored`` is that tensor."""

    @cached_property
    def unit(self) -> np.float32:
        """The mean magnitude of the whole tensor."""
        (tensor,) = self.stored
        step = max(1, _PIECE // max(1, tensor.shape[1]))
        total = sum(
            float(np.abs(tensor.rows(row, min(row + step, tensor.shape[0]))).sum(dtype=np.float64))
            for row in range(0, tensor.shape[0], step)
        )
        return max(np.float32(total / max(1, tensor.shape[0] * tensor.shape[1])), _LEAST)

    def zero_points(self, start: int, stop: int) -> None:  # noqa: ARG002 - each is the middle
        """Each is the middle."""
        return

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        steps = np.clip(np.round(self.stored[0].rows(start, stop) * (np.float32(1) / self.unit)), -1, 1)
        values: NDArray[np.uint8] = (steps + _ZERO).astype(np.uint8)
        return Codes(values, np.full((stop - start, 1), self.unit, np.float32))


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    kind = settings.text("linear_class", "bitlinear", ("bitlinear", "autobitlinear"))
    mode = settings.text("quantization_mode", "offline", ("offline", "online"))
    if settings.flag("use_rms_norm", False):
        raise settings.refuse(
            "use_rms_norm", "norms inside of its layers are not implemented; export another checkpoint"
        )
    settings.without_effect("modules_to_not_convert", "rms_norm_eps")  # what is stored says which are converted
    if mode == "online" and kind == "autobitlinear":
        for name in [name for name in tensors if _LINEAR.fullmatch(name)]:
            tensors[name] = _rounded(tensors[name])
        return "BitNet, ternary weights made of floats"
    for name in [name for name, tensor in tensors.items() if name.endswith(".weight_scale")]:
        weight = _packed(tensors, name.removesuffix("_scale"), inverse=kind == "bitlinear")
        tensors[weight.name] = weight
    return "BitNet, ternary weights in 2 bits"


def _packed(tensors: dict[str, StoredTensor], name: str, *, inverse: bool) -> TernaryWeight:
    scale = tensors.pop(f"{name}_scale")
    codes = partner(tensors, scale, name)
    if codes.dtype != "U8" or len(codes.shape) != 2:
        raise wrong(codes, "BitNet's codes are a matrix of U8", "save it with its weights packed")
    if scale.dtype not in READABLE or scale.nbytes != scale.itemsize:
        raise wrong(scale, "the scale of a BitNet layer is one float")
    shape = (codes.shape[0] * _IN_A_BYTE, codes.shape[1])
    common = packed_as(name, shape, (codes, scale), "BitNet, ternary in 2 bits")
    return TernaryWeight(**common, bits=_BITS, group=_WHOLE_ROW, inverse=inverse)


def _rounded(tensor: StoredTensor) -> RoundedWeight:
    if tensor.dtype not in READABLE or len(tensor.shape) != 2:
        raise wrong(tensor, "a BitNet weight that is made ternary is a matrix of floats")
    common = packed_as(tensor.name, tensor.shape, (tensor,), "BitNet, made ternary")
    return RoundedWeight(**common, bits=_BITS, group=_WHOLE_ROW)


FORMAT = Format("bitnet", methods=("bitnet",), read=read)
