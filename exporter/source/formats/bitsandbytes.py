"""bitsandbytes: 4 bits from a table of levels (Dettmers et al. 2023, QLoRA), and 8 bits (Dettmers et al. 2022).

4 bits: all elements of a weight stand one after the other in ``weight`` uint8, two in a byte, the first in its high
bits. Each is a number of ``weight.quant_map`` (16), times ``weight.absmax`` of its block of ``blocksize`` elements;
``weight.quant_state.bitsandbytes__nf4`` (or fp4) has the sizes as JSON. With double quantization ``absmax`` is uint8:
``nested_quant_map`` (256) of it, times ``nested_absmax`` of 256 of them, plus ``nested_offset``.

8 bits: ``weight`` int8 (rows, columns), ``SCB`` float32 (rows): ``w = int8 · SCB / 127``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgepress.exporter.source.config import Config
from edgepress.exporter.source.formats import Format
from edgepress.exporter.source.packed import (
    Codes,
    Floats,
    GridTensor,
    PackedTensor,
    packed_as,
    partner,
    wrong,
)
from edgepress.exporter.source.stored import StoredTensor
from edgepress.schema import parse_object

_STATE = re.compile(r"(.*\.weight)\.quant_state\.bitsandbytes__(nf4|fp4)")
_127TH = np.float32(1 / 127)
_AGAIN = "download the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class Levels(PackedTensor):
    """``stored`` is codes, absmax, quant_map and, with double quantization, nested_absmax and nested_quant_map."""

    block: int
    nested: int = 0  # how many scales share one, 0 where they are floats
    offset_of_scales: float = 0.0

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32: a level times a scale, rounded once."""
        width = math.prod(self.shape[1:])
        first, last = start * width, stop * width
        raw = self.stored[0].read(first // 2, -(-last // 2) - first // 2)
        codes = np.empty((len(raw), 2), np.uint8)
        codes[:, 0], codes[:, 1] = raw >> 4, raw & 15
        levels = self._table(2)[codes.reshape(-1)[first % 2 : first % 2 + last - first]]
        begin, end = first // self.block, -(-last // self.block)
        each = np.repeat(self._scales(begin, end), self.block)[first - begin * self.block :][: last - first]
        return (levels * each).reshape(stop - start, *self.shape[1:])

    def _scales(self, begin: int, end: int) -> Floats:
        if not self.nested:
            return self.stored[1].read(4 * begin, 4 * (end - begin)).view("<f4")
        codes = self.stored[1].read(begin, end - begin)
        outer = self._table(3)[np.arange(begin, end) // self.nested]
        return self._table(4)[codes] * outer + np.float32(self.offset_of_scales)

    def _table(self, index: int) -> Floats:
        tensor = self.stored[index]
        return tensor.read(0, tensor.nbytes).view("<f4")

    def grid(self) -> str:
        """Its levels are quantiles of a normal distribution, or 4-bit floats."""
        return "its 16 levels are not evenly spaced"


@dataclass(frozen=True, kw_only=True)
class Rows8(GridTensor):
    """``stored`` is int8 and SCB."""

    @cached_property
    def _scales(self) -> Floats:
        scales = self.stored[1]
        return scales.read(0, scales.nbytes).view("<f4") * _127TH

    def zero_points(self, _start: int, _stop: int) -> None:
        """None: each is the middle."""

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        raw = self.stored[0].read(start * self.shape[1], (stop - start) * self.shape[1])
        return Codes((raw ^ np.uint8(128)).reshape(stop - start, -1), self._scales[start:stop, None])


def read(_settings: Config, tensors: dict[str, StoredTensor]) -> str:
    """See :class:`~edgepress.exporter.source.formats.Format`; what is stored how, the tensors say."""
    kinds: set[str] = set()
    for name in [name for name in tensors if _STATE.fullmatch(name)]:
        found = _STATE.fullmatch(name)
        assert found is not None
        tensors[found[1]] = _levels(tensors, found[1], found[2])
        kinds.add(found[2])
    for name in [name for name in tensors if name.endswith(".SCB")]:
        module = name.removesuffix(".SCB")
        tensors[f"{module}.weight"] = _rows8(tensors, module)
        kinds.add("int8")
    return f"bitsandbytes, {' and '.join(sorted(kinds)) or 'no weights'}"


def _levels(tensors: dict[str, StoredTensor], name: str, kind: str) -> Levels:
    state = tensors.pop(f"{name}.quant_state.bitsandbytes__{kind}")
    codes = partner(tensors, state, name)
    values = parse_object(state.read(0, state.nbytes).tobytes(), state.file, _AGAIN)
    shape, block, nested = values.get("shape"), values.get("blocksize"), values.get("nested_blocksize", 0)
    sizes = [size for size in shape if isinstance(size, int) and size > 0] if isinstance(shape, list) else []
    if len(sizes) != 2 or not isinstance(block, int) or block < 1 or not isinstance(nested, int):
        raise wrong(state, f"its sizes are shape = {shape!r}, blocksize = {block!r}, nested_blocksize = {nested!r}")
    count = math.prod(sizes)
    blocks = -(-count // block)
    stored = [codes, *(partner(tensors, state, f"{name}.{key}") for key in ("absmax", "quant_map"))]
    if nested:
        stored += [partner(tensors, state, f"{name}.nested_{key}") for key in ("absmax", "quant_map")]
    wanted = [("U8", -(-count // 2)), ("U8" if nested else "F32", blocks), ("F32", 16)]
    wanted += [("F32", -(-blocks // nested)), ("F32", 256)] if nested else []
    for tensor, (dtype, size) in zip(stored, wanted, strict=True):
        if tensor.dtype != dtype or math.prod(tensor.shape) != size:
            raise wrong(tensor, f"of {sizes} in blocks of {block} it is {dtype} of {size}")
    offset = values.get("nested_offset", 0.0)
    if not isinstance(offset, int | float):
        raise wrong(state, f"nested_offset = {offset!r} is no number")
    how = f"bitsandbytes {kind}, blocks of {block}{', double quantization' if nested else ''}"
    fields = packed_as(name, tuple(sizes), tuple(stored), how)
    return Levels(**fields, block=block, nested=nested, offset_of_scales=float(offset))


def _rows8(tensors: dict[str, StoredTensor], module: str) -> Rows8:
    scales = tensors.pop(f"{module}.SCB")
    codes = partner(tensors, scales, f"{module}.weight")
    tensors.pop(f"{module}.weight_format", None)
    if codes.dtype != "I8" or len(codes.shape) != 2:
        raise wrong(codes, "weights with SCB are a matrix of I8")
    if scales.dtype != "F32" or scales.shape != codes.shape[:1]:
        raise wrong(scales, f"the scales of {codes.shape[0]} rows are F32 [{codes.shape[0]}]")
    how = "bitsandbytes 8 bits, one scale a row"
    return Rows8(**packed_as(f"{module}.weight", codes.shape, (codes, scales), how), bits=8, group=0)


FORMAT = Format("bitsandbytes", methods=("bitsandbytes",), read=read)
