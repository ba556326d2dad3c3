"""compressed-tensors, as llm-compressor and Google's quantization-aware Gemmas have it (``quant_method`` of that name).

Which of these forms a linear layer has, its tensors say; ``config_groups`` has the bits.

- packed integers ("pack-quantized"): ``weight_packed`` int32 (rows, ⌈columns · b / 32⌉), b-bit codes one after the
  other from a word's lowest bits on, each q + 2^(b−1); ``weight_scale`` (rows, groups); ``weight_zero_point``, packed
  down the rows in the same way, int32 (⌈rows · b / 32⌉, groups), where there is one; ``weight_shape``, the two sizes;
  ``weight_g_idx`` int32 (columns), the group of each column, where these are scattered (actorder group)
- 8-bit integers ("int-quantized", "naive-quantized"): ``weight`` int8, ``weight_scale`` for the tensor, a row or groups
  of a row, ``weight_zero_point`` int8 of the same shape where there is one
- 8-bit floats ("float-quantized"): ``weight`` float8, ``weight_scale`` for the tensor, a row, groups or blocks

``w = (q − zero point) · weight_scale``. What a checkpoint says of its activations is not computed: they stay floats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.formats._float8 import FLOAT8, Float8Weight, float8_weight
from edgepress.exporter.source.formats._integers import Bytes, Scaled
from edgepress.exporter.source.formats._scattered import Scattered
from edgepress.exporter.source.packed import (
    Codes,
    elements,
    packed_as,
    partner,
    unpack_bits,
    wrong,
)
from edgepress.exporter.source.stored import READABLE, StoredTensor

_FORMS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense")
_UNUSED = re.compile(r".*\.((input|output|weight)_(scale|zero_point)|[kqv]_(scale|zero_point))")


@dataclass(frozen=True, kw_only=True)
class PackedIntegers(Scattered, Scaled):
    """``weight_packed`` and what lies beside it: ``stored`` ends with the index where there is one."""

    def zero_points(self, start: int, stop: int) -> NDArray[np.int16] | None:
        """(stop − start, groups), as much above the lowest code as they are stored."""
        if len(self.stored) < (3 if self.index is None else 4):
            return None
        zeros, groups = self.stored[2], self.stored[1].shape[1]
        words = elements(zeros, 0, zeros.shape[0], "<u4")  # (words, groups)
        raw = np.ascontiguousarray(words.T).view(np.uint8)
        found = _unpacked(raw, self.bits, self.shape[0])  # (groups, rows)
        return np.ascontiguousarray(found[:groups, start:stop].T).astype(np.int16)

    def stored_codes(self, start: int, stop: int) -> Codes:
        """Rows with their columns in their places."""
        packed = self.stored[0]
        raw = packed.read(start * packed.row_nbytes, (stop - start) * packed.row_nbytes).reshape(stop - start, -1)
        values = _unpacked(raw, self.bits, self.shape[1])
        return Codes(values, self.scales(start, stop), self.zero_points(start, stop))


def _unpacked(raw: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` codes of each row of bytes; a last run of odd bits is filled up."""
    odd = 0 if bits in (1, 2, 4, 8) else -raw.shape[1] % bits
    padded = np.pad(raw, ((0, 0), (0, odd))) if odd else raw
    return np.ascontiguousarray(unpack_bits(padded, bits)[:, :count])


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    form = settings.text("format", "dense", _FORMS)
    if (transforms := settings.section("transform_config")) is not None and any(transforms.values.values()):
        raise settings.refuse("transform_config", "the weights are those of a rotated model; export the original one")
    sparsity = settings.section("sparsity_config")
    if sparsity is not None:
        sparsity.text("format", "dense", ("dense",))
    kinds = _kinds(settings)
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        packed = _packed(tensors, name.removesuffix(".weight_packed"), kinds)
        tensors[packed.name] = packed
    for name in [name for name, tensor in tensors.items() if tensor.dtype in ("I8", *FLOAT8)]:
        if name.endswith(".weight") and f"{name}_scale" in tensors:
            tensors[name] = _plain(tensors, name, kinds)
    for name in [name for name in tensors if _UNUSED.fullmatch(name)]:
        del tensors[name]
    bits = " and ".join(sorted({f"{kind.get('num_bits')}-bit {kind.get('type', 'int')}" for kind in kinds}))
    return f"compressed-tensors, {form}, {bits or 'no weights'}"


def _kinds(settings: Config) -> list[Mapping[str, object]]:
    """What each group of layers says of its weights."""
    groups = settings.values.get("config_groups")
    if not isinstance(groups, Mapping):
        raise settings.refuse("config_groups", "must say how the weights are stored")
    weights = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
    return [one for one in weights if isinstance(one, Mapping)]


def _packed(tensors: dict[str, StoredTensor], module: str, kinds: Sequence[Mapping[str, object]]) -> PackedIntegers:
    codes = tensors.pop(f"{module}.weight_packed")
    if codes.dtype != "I32" or len(codes.shape) != 2:
        raise wrong(codes, "packed integers are a matrix of I32 (4-bit floats are not read)", "export the original one")
    scales, sizes = (partner(tensors, codes, f"{module}.weight_{what}") for what in ("scale", "shape"))
    zeros, index = (tensors.pop(f"{module}.weight_{what}", None) for what in ("zero_point", "g_idx"))
    if sizes.dtype not in ("I64", "I32") or sizes.shape != (2,):
        raise wrong(sizes, "it must be the two sizes of the weight")
    rows, width = (int(size) for size in elements(sizes, 0, 2, "<i8" if sizes.dtype == "I64" else "<i4"))
    asked = sorted({bits for kind in kinds if isinstance(bits := kind.get("num_bits"), int) and 1 < bits <= 8})
    fitting = [bits for bits in asked if codes.shape == (rows, -(-width * bits // 32))]
    if len(fitting) != 1:
        raise wrong(codes, f"{[rows, width]} in one of {asked} bits, which config_groups names, has another shape")
    bits = fitting[0]
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.dtype not in READABLE or math.prod(scales.shape) not in (1, rows * groups) or width % groups:
        raise wrong(scales, f"the scales of {[rows, width]} are floats ({rows}, groups), with columns in whole groups")
    if zeros is not None and (zeros.dtype != "I32" or zeros.shape != (-(-rows * bits // 32), groups)):
        raise wrong(zeros, f"zero points of {rows} rows and {groups} groups are I32 {[-(-rows * bits // 32), groups]}")
    if index is not None and (index.shape != (width,) or index.dtype != "I32"):
        raise wrong(index, f"the groups of {width} columns are I32 [{width}]")
    stored = tuple(tensor for tensor in (codes, scales, zeros, index) if tensor is not None)
    size = width // groups
    how = f"compressed-tensors {bits} bits, {'one scale a row' if groups == 1 else f'groups of {size}'}"
    common = packed_as(f"{module}.weight", (rows, width), stored, how)
    return PackedIntegers(**common, bits=bits, group=0 if groups == 1 else size, index=index, groups=groups)


def _plain(tensors: dict[str, StoredTensor], name: str, kinds: Sequence[Mapping[str, object]]) -> Bytes | Float8Weight:
    codes = tensors[name]
    scales, zeros = tensors.pop(f"{name}_scale"), tensors.pop(f"{name}_zero_point", None)
    if len(codes.shape) != 2:
        raise wrong(codes, "quantized weights are matrices")
    rows, width = codes.shape
    if codes.dtype in FLOAT8:
        return float8_weight(codes, scales, _block(scales, (rows, width), kinds), name)
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.dtype not in READABLE or math.prod(scales.shape) not in (1, rows * groups) or width % groups:
        raise wrong(scales, f"the scales of {[rows, width]} are floats ({rows}, groups), with columns in whole groups")
    if zeros is not None and (zeros.dtype != "I8" or math.prod(zeros.shape) != math.prod(scales.shape)):
        raise wrong(zeros, f"the zero points of these weights are I8 {list(scales.shape)}")
    stored = (codes, scales) if zeros is None else (codes, scales, zeros)
    per = "one scale" if math.prod(scales.shape) == 1 else "one scale a row" if groups == 1 else "groups of "
    how = f"compressed-tensors 8 bits, {per}{width // groups if groups > 1 else ''}"
    return Bytes(**packed_as(name, (rows, width), stored, how), bits=8, group=0 if groups == 1 else width // groups)


def _block(scales: StoredTensor, shape: tuple[int, int], kinds: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """How many rows and columns share a scale, by the shape of the scales and the blocks that the config names."""
    if math.prod(scales.shape) == 1:
        return shape
    for kind in kinds:
        block = kind.get("block_structure")
        sizes = [size for size in block if isinstance(size, int) and size > 0] if isinstance(block, list) else []
        if len(sizes) == 2 and scales.shape == (-(-shape[0] // sizes[0]), -(-shape[1] // sizes[1])):
            return sizes[0], sizes[1]
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    return 1, -(-shape[1] // max(1, groups))


FORMAT = Format("compressed_tensors", methods=("compressed-tensors",), read=read)
