"""torchao's integers in safetensors (``quant_method`` "torchao"): those that are stored one in a byte.

``X._weight_qdata`` int8 (rows, columns), ``X._weight_scale`` and ``X._weight_zero_point`` (rows, groups):
``w = (qdata − zero point) · scale``. Its int4 packings for GPUs are refused, as are files of pickles.
"""

from __future__ import annotations

import re

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.formats._integers import Bytes
from edgepress.exporter.source.packed import packed_as, partner, wrong
from edgepress.exporter.source.stored import READABLE, StoredTensor

_DATA = "._weight_qdata"
_BITS = re.compile(r"int([2-8])")
_ANOTHER = "save it with int4_packing_format unpacked (IntxWeightOnlyConfig), or export the original checkpoint"


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    bits = _bits(settings)
    for name in [name for name in tensors if name.endswith(_DATA)]:
        weight = _weight(tensors, name.removesuffix(_DATA), bits)
        tensors[weight.name] = weight
    return f"torchao, {bits} bits"


def _bits(settings: Config) -> int:
    """How many bits the codes have; eight hold any."""
    kinds = settings.values.get("quant_type")
    default = kinds.get("default") if isinstance(kinds, dict) else None
    data = default.get("_data") if isinstance(default, dict) else None
    kind = data.get("weight_dtype") if isinstance(data, dict) else None
    found = _BITS.fullmatch(str(kind.get("_data"))) if isinstance(kind, dict) else None
    return 8 if found is None else int(found[1])


def _weight(tensors: dict[str, StoredTensor], module: str, bits: int) -> Bytes:
    codes = tensors.pop(f"{module}{_DATA}")
    scales = partner(tensors, codes, f"{module}._weight_scale")
    zeros = tensors.pop(f"{module}._weight_zero_point", None)
    if codes.dtype != "I8" or len(codes.shape) != 2:
        raise wrong(codes, "integers that are read are a matrix of I8, one in a byte", _ANOTHER)
    rows, width = codes.shape
    groups = scales.shape[1] if len(scales.shape) == 2 else 0
    if scales.dtype not in READABLE or scales.shape != (rows, groups) or not groups or width % groups:
        raise wrong(scales, f"the scales of {[rows, width]} are floats ({rows}, groups)", _ANOTHER)
    if zeros is not None and (zeros.dtype != "I8" or zeros.shape != scales.shape):
        raise wrong(zeros, f"the zero points of these weights are I8 {list(scales.shape)}", _ANOTHER)
    size = width // groups
    how = f"torchao {bits} bits, {'one scale a row' if groups == 1 else f'groups of {size}'}"
    stored = (codes, scales) if zeros is None else (codes, scales, zeros)
    fields = packed_as(f"{module}.weight", (rows, width), stored, how)
    return Bytes(**fields, bits=bits, group=0 if groups == 1 else size)


FORMAT = Format("torchao", methods=("torchao",), read=read)
