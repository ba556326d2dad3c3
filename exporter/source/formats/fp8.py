"""8-bit floats with a scale for each block, as DeepSeek-V3 and Qwen3 ship them (``quant_method`` "fp8").

``weight`` float8 (rows, columns) and ``weight_scale_inv`` float32 (⌈rows / 128⌉, ⌈columns / 128⌉), of blocks whose size
``weight_block_size`` names, or of one number without one: ``w = float8 · weight_scale_inv``, despite its name. FBGEMM's
files ("fbgemm_fp8") have ``weight_scale`` (rows, 1). Activations, which such models round at run time, stay floats.
"""

from __future__ import annotations

import math

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.formats._float8 import FLOAT8, float8_weight
from edgepress.exporter.source.packed import partner
from edgepress.exporter.source.stored import StoredTensor

_ENDS = ("_scale_inv", "_scale")
_UNUSED = (".activation_scale", ".input_scale", ".input_scale_ub")


def read(settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`."""
    block = settings.optional_integers("weight_block_size", 2)
    if block is not None and (len(block) != 2 or min(block) < 1):
        raise settings.refuse("weight_block_size", "must be two numbers of at least 1: rows and columns")
    for name in [name for name, tensor in tensors.items() if tensor.dtype in FLOAT8]:
        codes = tensors[name]
        end = next((end for end in _ENDS if f"{name}{end}" in tensors), _ENDS[0])
        scales = partner(tensors, codes, f"{name}{end}")
        height, width = codes.shape[-2:] if len(codes.shape) > 1 else (1, 1)
        if math.prod(scales.shape) == 1:
            size = height, width
        elif math.prod(scales.shape) == height:
            size = 1, width
        else:
            size = (128, 128) if block is None else (block[0], block[1])
        tensors[name] = float8_weight(codes, scales, size, name)
    for name in [name for name in tensors if name.endswith(_UNUSED)]:
        del tensors[name]
    return f"FP8{'' if block is None else f', blocks of {block[0]} × {block[1]}'}"


FORMAT = Format("fp8", methods=("fp8", "fbgemm_fp8"), read=read)
