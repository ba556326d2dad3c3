"""GGUF, llama.cpp's files: one has weights, config and tokenizer (ggml's docs/gguf.md).

Weights are read a few rows at a time as the numbers that they stand for; :mod:`.blocks` has the types,
:mod:`.config` what the metadata says of the model, :mod:`.tokenizer` what it says of the tokenizer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.source.formats import FileFormat, WholeFile
from edgepress.exporter.source.formats.gguf.blocks import BLOCKS, FLOATS, Blocks
from edgepress.exporter.source.formats.gguf.config import (
    ROPE_TENSORS,
    family_of,
    heads_of,
    plain_name,
    read_config,
    shape_of,
)
from edgepress.exporter.source.formats.gguf.file import MAGIC, Entry, read_file
from edgepress.exporter.source.formats.gguf.tokenizer import tokenizer_files
from edgepress.exporter.source.packed import Codes, Floats, Grid, PackedTensor, packed_as
from edgepress.exporter.source.stored import StoredTensor, to_float32


@dataclass(frozen=True, kw_only=True)
class GGUFWeight(PackedTensor):
    """A tensor of any type; ``blocks`` is None for floats.

    ``heads`` are those whose rows llama.cpp has in pairs: row 2i + s of a head is row i + s · half of the original.
    ``minus`` is what was added to every number.
    """

    blocks: Blocks | None
    heads: int = 0
    minus: float = 0.0

    def rows(self, start: int, stop: int) -> Floats:
        """Rows as float32; with a type's own offsets, or from floats."""
        raw = self._raw(start, stop)
        if self.blocks is None:
            found = to_float32(raw.reshape(-1), self.stored[0].dtype).reshape(stop - start, *self.shape[1:])
            return found - np.float32(self.minus) if self.minus else found
        if not self.blocks.uneven:
            return self.codes(start, stop).dequantize(self._grid)
        unpacked = self.blocks.unpack(raw.reshape(-1, self.blocks.nbytes))
        assert unpacked.offsets is not None
        out = unpacked.codes.astype(np.float32).reshape(*unpacked.scales.shape, -1)  # (blocks, groups, numbers)
        out *= unpacked.scales[:, :, None]
        out += unpacked.offsets[:, :, None]
        return out.reshape(stop - start, *self.shape[1:])

    @property
    def _grid(self) -> Grid:
        assert self.blocks is not None
        return Grid(self.blocks.bits, self.blocks.group, symmetric=True)

    def grid(self) -> Grid | str:
        """The type's, where it is on one."""
        if self.blocks is None or self.minus:
            return f"it is stored as {self.stored[0].dtype}"
        return self.blocks.uneven or self._grid

    def codes(self, start: int, stop: int) -> Codes:
        """See :class:`~edgepress.exporter.source.packed.PackedTensor`."""
        assert self.blocks is not None
        unpacked = self.blocks.unpack(self._raw(start, stop).reshape(-1, self.blocks.nbytes))
        rows = stop - start
        return Codes(unpacked.codes.reshape(rows, -1), unpacked.scales.reshape(rows, -1).astype(np.float32))

    def _raw(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes of rows, (stop − start, bytes in a row), as the original has its rows."""
        stored, nbytes = self.stored[0], self.stored[0].nbytes // max(1, self.shape[0])
        if not self.heads:
            return stored.read(start * nbytes, (stop - start) * nbytes).reshape(stop - start, nbytes)
        width = self.shape[0] // self.heads
        row = np.arange(start, stop)
        head, inner = row // width, row % width
        place = head * width + 2 * (inner % (width // 2)) + inner // (width // 2)
        first, last = int(place.min(initial=0)), int(place.max(initial=-1)) + 1
        whole = stored.read(first * nbytes, (last - first) * nbytes).reshape(last - first, nbytes)
        found: NDArray[np.uint8] = whole[place - first]
        return found


def read(path: Path) -> WholeFile:
    """The model in a file; no weight is read.

    Raises:
        InputError: the file is not whole, or something in it is not read; the message names the key or tensor.

    """
    header = read_file(path)
    if "split.count" in header.values and header.values["split.count"] not in (0, 1):
        raise InputError(
            f"{path} is one of {header.values['split.count']} files of a model; join them first: llama-gguf-split "
            "--merge"
        )
    family = family_of(header)
    config = read_config(header, lambda name: _whole(path, header.tensors[name]))
    tensors: dict[str, StoredTensor] = {}
    for name, stored in header.tensors.items():
        if name in ROPE_TENSORS:
            continue
        plain = plain_name(family, name)
        if plain is None:
            architecture = header.values["general.architecture"]
            raise InputError(f"{path}: {name} is a tensor that {architecture} has no use for; export the original")
        minus = 1.0 if family.minus_one and name.endswith("norm.weight") else 0.0
        entry = replace(stored, shape=shape_of(family, name, stored.shape))
        tensors[plain] = _tensor(path, plain, entry, heads_of(family, name, config), minus)
    files = {"config.json": json.dumps(config).encode(), **tokenizer_files(header)}
    kinds = sorted({BLOCKS[entry.kind].name for entry in header.tensors.values() if entry.kind in BLOCKS})
    return WholeFile(config, tensors, files, f"GGUF, {', '.join(kinds)}" if kinds else "")


def _stored(path: Path, name: str, entry: Entry) -> StoredTensor:
    dtype = FLOATS[entry.kind][0] if entry.kind in FLOATS else "U8"
    return StoredTensor(name, dtype, entry.shape, path, entry.offset, entry.nbytes)


def _tensor(path: Path, name: str, entry: Entry, heads: int, minus: float) -> StoredTensor:
    stored, blocks = _stored(path, name, entry), BLOCKS.get(entry.kind)
    if blocks is None and not heads and not minus:
        return stored
    if heads and (not entry.shape or entry.shape[0] % (2 * heads)):
        raise InputError(f"{path}: {entry.name} has {list(entry.shape)} rows, which {heads} heads cannot share")
    how = f"GGUF {blocks.name}" if blocks is not None else f"GGUF {stored.dtype}"
    return GGUFWeight(**packed_as(name, entry.shape, (stored,), how), blocks=blocks, heads=heads, minus=minus)


def _whole(path: Path, entry: Entry) -> Floats:
    tensor = _tensor(path, entry.name, entry, 0, 0.0)
    return tensor.rows(0, entry.shape[0])


FORMAT = FileFormat("gguf", MAGIC, read)
