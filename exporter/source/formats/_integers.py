"""Integers of int8 with scales beside them, which several formats have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.packed import Codes, Floats, GridTensor, elements, wrong
from edgepress.exporter.source.stored import to_float32


@dataclass(frozen=True, kw_only=True)
class Scaled(GridTensor):
    """``stored`` is codes, scales and, where there are some, zero points."""

    def scales(self, start: int, stop: int) -> Floats:
        """(stop − start, groups); one for the whole tensor is every row's."""
        scales = self.stored[1]
        if math.prod(scales.shape) == 1:
            one = to_float32(scales.read(0, scales.nbytes), scales.dtype)
            return np.broadcast_to(one, (stop - start, 1))
        return scales.rows(start, stop).reshape(stop - start, -1)


@dataclass(frozen=True, kw_only=True)
class Bytes(Scaled):
    """Integers, one in a byte: codes are as much more that they begin with 0, and zero points too."""

    def zero_points(self, start: int, stop: int) -> NDArray[np.int16] | None:
        """(stop − start, groups)."""
        if len(self.stored) < 3:
            return None
        zeros = self.stored[2]
        if math.prod(zeros.shape) == 1:
            found = np.broadcast_to(zeros.read(0, 1).view(np.int8), (stop - start, 1))
        else:
            found = elements(zeros, start, stop, "i1").astype(np.int8).reshape(stop - start, -1)
        return found.astype(np.int16) + np.int16(1 << (self.bits - 1))

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        raw = self.stored[0].read(start * self.shape[1], (stop - start) * self.shape[1])
        values = raw + np.uint8(1 << (self.bits - 1))  # of two's complement, which wraps around
        if self.bits < 8 and (values >> np.uint8(self.bits)).any():
            raise wrong(self.stored[0], f"it holds integers beyond {self.bits} bits")
        values = values.reshape(stop - start, -1)
        return Codes(values, self.scales(start, stop), self.zero_points(start, stop))
