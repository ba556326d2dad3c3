"""MXFP4, as gpt-oss ships its experts (OCP Microscaling Formats 1.0; ``quant_method`` "mxfp4").

``X_blocks`` uint8 (experts, rows, groups, 16): two 4-bit floats a byte, the first in its low bits, 32 a group;
``X_scales`` uint8 (experts, rows, groups): the group's power of two, plus 127. transformers' ``X`` is their transpose,
(experts, columns, rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.packed import Floats, PackedTensor, packed_as, partner, wrong
from edgepress.exporter.source.stored import StoredTensor

_LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_TABLE = np.concatenate([_LEVELS, -_LEVELS])
_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class MXFP4Experts(PackedTensor):
    """(experts, columns, rows), or all of their columns one below the other; ``stored`` is blocks and scales."""

    own_form: ClassVar[bool] = True
    by_columns: bool = True
    experts: int

    def rows(self, start: int, stop: int) -> Floats:
        """Whole experts, or columns of some, as float32: a level times a power of two is exact."""
        stacked = len(self.shape) == 3
        height = self.shape[1] if stacked else self.shape[0] // self.experts
        first, last = (start * height, stop * height) if stacked else (start, stop)
        pieces = [
            self._expert(expert, max(first - expert * height, 0), min(last - expert * height, height))
            for expert in range(first // height, -(-last // height))
        ]
        whole = np.concatenate(pieces) if len(pieces) != 1 else pieces[0]
        return whole.reshape(stop - start, *self.shape[1:])

    def _expert(self, expert: int, start: int, stop: int) -> Floats:
        """Columns ``start`` to ``stop`` of an expert: (stop − start, rows)."""
        blocks, scales = self.stored
        _, rows, groups, _ = blocks.shape
        begin, end = start // _GROUP, -(-stop // _GROUP)
        raw = blocks.read(expert * blocks.row_nbytes, blocks.row_nbytes).reshape(rows, groups, 16)[:, begin:end]
        powers = scales.read(expert * scales.row_nbytes, scales.row_nbytes).reshape(rows, groups)[:, begin:end]
        levels = np.stack([_TABLE[raw & 15], _TABLE[raw >> 4]], axis=-1).reshape(rows, end - begin, _GROUP)
        whole = np.ldexp(levels, powers[:, :, None].astype(np.int32) - 127).reshape(rows, -1)
        return np.ascontiguousarray(whole[:, start - begin * _GROUP : stop - begin * _GROUP].T)

    def grid(self) -> str:
        """Experts are rounded anew: their kernel has another layout."""
        return "floats of 4 bits are not evenly spaced"


def read(_settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    for name in [name for name in tensors if name.endswith("_blocks")]:
        plain = name.removesuffix("_blocks")
        blocks = tensors.pop(name)
        scales = partner(tensors, blocks, f"{plain}_scales")
        if blocks.dtype != "U8" or len(blocks.shape) != 4 or blocks.shape[3] != _GROUP // 2:
            raise wrong(blocks, "MXFP4's blocks are U8 (experts, rows, groups, 16)")
        if scales.dtype != "U8" or scales.shape != blocks.shape[:3]:
            raise wrong(scales, f"the scales of these blocks are U8 {list(blocks.shape[:3])}")
        experts, rows, groups, _ = blocks.shape
        fields = packed_as(plain, (experts, groups * _GROUP, rows), (blocks, scales), "MXFP4, groups of 32")
        tensors[plain] = MXFP4Experts(**fields, experts=experts)
    return "MXFP4, groups of 32"


FORMAT = Format("mxfp4", methods=("mxfp4",), read=read)
