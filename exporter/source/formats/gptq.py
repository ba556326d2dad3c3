"""GPTQ's files, as AutoGPTQ, GPTQModel and transformers write them (Frantar et al. 2022; ``quant_method`` "gptq").

A linear layer of (rows, columns) is four tensors, named after it. With b bits, and 32-bit words that hold b-bit codes
one after the other from their lowest bits on:

- ``qweight`` int32 (columns · b / 32, rows): the codes of a row go down a column of words
- ``scales`` float16 (groups, rows)
- ``qzeros`` int32 (groups, rows · b / 32): zero points, less 1 in the first version of the format ("gptq"), as they
  are in the second ("gptq_v2")
- ``g_idx`` int32 (columns): the group of each column, where it is there; ``desc_act`` gives neighbours different ones

``w = (code − zero point) · scale``, of the column's group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.formats._scattered import Scattered
from edgepress.exporter.source.packed import (
    Codes,
    columns,
    floats,
    packed_as,
    partner,
    unpack_bits,
    wrong,
)
from edgepress.exporter.source.stored import READABLE, StoredTensor

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True, kw_only=True)
class GPTQWeight(Scattered):
    """A weight of (rows, columns); ``stored`` is qweight, qzeros, scales and perhaps g_idx."""

    by_columns: bool = True
    lifted: int  # what stored zero points lack

    def zero_points(self, start: int, stop: int) -> NDArray[np.int16]:
        """(stop − start, groups)."""
        per_word, zeros = 32 // math.gcd(32, self.bits), self.stored[1]
        first, last = start // per_word, -(-stop // per_word)  # runs of codes that begin and end with a word
        words = per_word * self.bits // 32
        raw = columns(zeros, first * words, min(last * words, zeros.shape[1]))  # (groups, bytes)
        found = unpack_bits(raw, self.bits)[:, start - first * per_word : stop - first * per_word]
        return np.ascontiguousarray(found.T).astype(np.int16) + np.int16(self.lifted)

    def stored_codes(self, start: int, stop: int) -> Codes:
        """Rows with their columns in their places, and the groups as they are stored."""
        raw = columns(self.stored[0], start, stop).view("<u4")  # (words, rows)
        words = np.ascontiguousarray(raw.T).view(np.uint8)  # (rows, bytes)
        zeros = self.zero_points(start, stop)
        return Codes(unpack_bits(words, self.bits), floats(self.stored[2], start, stop), zeros)


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    asked = settings.integer("bits")
    if asked not in _BITS:
        raise settings.refuse("bits", f"GPTQ's files have {', '.join(map(str, _BITS))}")
    version = settings.text("checkpoint_format", "gptq", ("gptq", "gptq_v2"))
    for key in ("is_marlin_format", "use_marlin"):
        if settings.flag(key, False) and key.startswith("is"):
            raise settings.refuse(key, "packed for a GPU kernel; save it in the format gptq or gptq_v2")
    group = settings.integer("group_size", -1, minimum=-1)
    lifted = 1 if version == "gptq" else 0
    for name in [name for name in tensors if name.endswith(".qweight")]:
        weight = _weight(tensors, name.removesuffix(".qweight"), asked, lifted)
        tensors[weight.name] = weight
    return f"GPTQ, {asked} bits, {'one scale a row' if group < 1 else f'groups of {group}'}"


def _weight(tensors: dict[str, StoredTensor], module: str, asked: int, lifted: int) -> GPTQWeight:
    """Put a weight together; bits and group are what the shapes say, as a layer may have its own (``dynamic``)."""
    codes = tensors.pop(f"{module}.qweight")
    scales = partner(tensors, codes, f"{module}.scales")
    zeros = partner(tensors, codes, f"{module}.qzeros")
    index = tensors.pop(f"{module}.g_idx", None)
    if codes.dtype != "I32" or len(codes.shape) != 2:
        raise wrong(codes, "GPTQ's codes are a matrix of I32")
    groups, rows = scales.shape if len(scales.shape) == 2 else (0, 0)
    if scales.dtype not in READABLE or rows != codes.shape[1] or not groups:
        raise wrong(scales, f"the scales of {codes.shape[1]} rows are floats (groups, {codes.shape[1]})")
    bits = 32 * zeros.shape[1] // rows if len(zeros.shape) == 2 and rows else 0
    if zeros.dtype != "I32" or bits not in _BITS or zeros.shape != (groups, -(-rows * bits // 32)):
        raise wrong(zeros, f"the zero points of {groups} groups and {rows} rows are I32 {[groups, rows * asked // 32]}")
    width = codes.shape[0] * 32 // bits
    if codes.shape[0] * 32 % bits:
        raise wrong(codes, f"{codes.shape[0]} words hold no whole number of codes of {bits} bits")
    if index is not None and (index.dtype != "I32" or index.shape != (width,)):
        raise wrong(index, f"the groups of {width} columns are I32 [{width}]")
    if width % groups and index is None:
        raise wrong(scales, f"{width} columns cannot be cut into {groups} groups, and there is no g_idx")
    size = -(-width // groups)
    stored = (codes, zeros, scales) if index is None else (codes, zeros, scales, index)
    how = f"GPTQ {bits} bits, {'one scale a row' if groups == 1 else f'groups of {size}'}"
    common = packed_as(f"{module}.weight", (rows, width), stored, how)
    group = 0 if groups == 1 else size
    return GPTQWeight(**common, bits=bits, group=group, lifted=lifted, index=index, groups=groups)


FORMAT = Format("gptq", methods=("gptq",), read=read)
