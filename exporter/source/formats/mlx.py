"""MLX's affine quantization, as mlx-lm writes it (config: ``quantization`` with ``group_size`` and ``bits``).

``weight`` uint32 (rows, columns · b / 32), b-bit codes one after the other from the lowest bits on; ``scales`` and
``biases`` floats (rows, groups): ``w = code · scale + bias``. MLX makes the bias a whole number of scales, and then
rounds both to the model's float type: taking it for that number again changes weights by this rounding alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import MLX, Format
from edgepress.exporter.source.packed import Codes, Floats, Grid, PackedTensor, packed_as, partner, unpack_bits, wrong
from edgepress.exporter.source.stored import READABLE, StoredTensor

_BITS = (2, 3, 4, 5, 6, 8)
_STEPS = "its biases, which are whole steps but for their rounding, become whole steps"
_NEAR = 0.125  # of a step: bfloat16 holds a bias of 15 steps within 0.06


@dataclass(frozen=True, kw_only=True)
class AffineWeight(PackedTensor):
    """``stored`` is the words, scales and biases."""

    bits: int
    group: int

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32: the product is exact, and the sum is rounded once."""
        out = self._codes(start, stop).astype(np.float64).reshape(stop - start, -1, self.group)
        out *= self.stored[1].rows(start, stop)[:, :, None]
        out += self.stored[2].rows(start, stop)[:, :, None]
        return out.astype(np.float32).reshape(stop - start, -1)

    def _codes(self, start: int, stop: int) -> NDArray[np.uint8]:
        words = self.stored[0]
        raw = words.read(start * words.row_nbytes, (stop - start) * words.row_nbytes).reshape(stop - start, -1)
        return unpack_bits(raw, self.bits)

    @cached_property
    def _grid(self) -> Grid | str:
        zeros, off = self._zero_points(0, self.shape[0])
        if off > _NEAR or zeros.min() < 0 or zeros.max() >= 1 << self.bits:
            return "its biases are no whole steps"
        grid = Grid(self.bits, self.group, symmetric=False, loses=_STEPS)
        return Grid(self.bits, self.group, symmetric=True, loses=_STEPS) if (zeros == grid.middle).all() else grid

    def grid(self) -> Grid | str:
        """As near as the biases are to whole steps."""
        return self._grid

    def _zero_points(self, start: int, stop: int) -> tuple[NDArray[np.int16], float]:
        """(stop − start, groups), and how far the farthest bias is from its whole number of steps."""
        scales, biases = self.stored[1].rows(start, stop), self.stored[2].rows(start, stop)
        steps = np.divide(-biases, scales, out=np.zeros_like(scales), where=scales != 0)
        zeros = np.clip(np.rint(steps), -1, 256)
        lost = float(np.abs(steps - zeros).max(initial=0))
        flat = bool((biases[scales == 0] != 0).any())  # a group of one number that is not 0
        return zeros.astype(np.int16), np.inf if flat else lost

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        zeros, _ = self._zero_points(start, stop)
        return Codes(self._codes(start, stop), self.stored[1].rows(start, stop), zeros)


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`; layers with settings of their own are known by shape."""
    settings.text("mode", "affine", ("affine",))
    bits, group = settings.integer("bits", 4), settings.integer("group_size", 64)
    if bits not in _BITS:
        raise settings.refuse("bits", f"MLX has {', '.join(map(str, _BITS))}")
    for name in [name for name in tensors if name.endswith(".scales")]:
        module = name.removesuffix(".scales")
        own = settings.values.get(module)
        layer = own if isinstance(own, dict) else {}
        asked = [layer.get("bits", bits), layer.get("group_size", group)]
        weight = _weight(tensors, module, *(size if isinstance(size, int) else 0 for size in asked))
        tensors[weight.name] = weight
    return f"MLX, {bits} bits, groups of {group}"


def _weight(tensors: dict[str, StoredTensor], module: str, asked: int, group: int) -> AffineWeight:
    """Put a weight together; ``asked`` bits are held against the shapes, which say how many there are."""
    scales = tensors.pop(f"{module}.scales")
    codes, biases = (partner(tensors, scales, f"{module}.{key}") for key in ("weight", "biases"))
    if codes.dtype != "U32" or len(codes.shape) != 2:
        raise wrong(codes, "MLX's codes are a matrix of U32")
    for tensor in (scales, biases):
        if tensor.dtype not in READABLE or len(tensor.shape) != 2 or tensor.shape[0] != codes.shape[0]:
            raise wrong(tensor, f"scales and biases of {codes.shape[0]} rows are floats ({codes.shape[0]}, groups)")
    groups = scales.shape[1]
    width = groups * group
    bits = codes.shape[1] * 32 // max(1, width)
    if biases.shape != scales.shape or codes.shape[1] * 32 != bits * width or bits not in _BITS:
        raise wrong(codes, f"{groups} groups of {group} columns in {asked} bits are {width * asked // 32} words")
    how = f"MLX {bits} bits, groups of {group}"
    fields = packed_as(f"{module}.weight", (codes.shape[0], width), (codes, scales, biases), how)
    return AffineWeight(**fields, bits=bits, group=group)


FORMAT = Format(MLX, methods=(MLX,), read=read)
