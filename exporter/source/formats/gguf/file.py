"""A GGUF file: its metadata and where its tensors lie, strictly checked (ggml's docs/gguf.md, versions 2 and 3)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import InputError
from edgepress.exporter.source.formats.gguf.blocks import BLOCKS, FLOATS, OTHERS
from edgepress.exporter.source.stored import read_errors

MAGIC = b"GGUF"
_AGAIN = "download or convert it again"
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_FLOAT32, _TEXT, _LIST = 6, 8, 9
_MOST = 1 << 24  # entries of a list, tensors, keys
_LARGEST = 1 << 20  # bytes of a key or a string
_MOST_HEADER = 1 << 30  # bytes
_FIRST = 1 << 22  # bytes that are read at first
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class Entry:
    """A tensor: ``shape`` as numpy has it, the last number the one that runs fastest; ``kind`` is ggml's number."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int  # from the start of the file
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file says before its data."""

    path: Path
    values: Mapping[str, object]
    tensors: Mapping[str, Entry]


class _Reader:
    """Numbers and strings one after the other, all of them inside of the file."""

    def __init__(self, path: Path) -> None:
        with read_errors(path):
            self.size = path.stat().st_size
            with path.open("rb") as file:
                refuse_pointer(path, file.read(200))
                file.seek(0)
                self.data = file.read(_FIRST)
        self.path, self.at = path, 0

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes."""
        if self.at + count > len(self.data):
            self._more(self.at + count, what)
        self.at += count
        return self.data[self.at - count : self.at]

    def _more(self, end: int, what: str) -> None:
        if end > self.size or end > _MOST_HEADER:
            raise self.refuse(f"it ends inside of {what}: truncated")
        wanted = min(self.size, max(end, 2 * len(self.data)), _MOST_HEADER)
        with read_errors(self.path), self.path.open("rb") as file:
            file.seek(len(self.data))
            self.data += file.read(wanted - len(self.data))
        if end > len(self.data):
            raise self.refuse(f"it ends inside of {what}: truncated")

    def number(self, layout: str, what: str) -> int:
        """A whole number."""
        return int(struct.unpack(layout, self.take(struct.calcsize(layout), what))[0])

    def text(self, what: str) -> str:
        """A string with its length before it."""
        length = self.number("<Q", what)
        if length > _LARGEST:
            raise self.refuse(f"{what} claims {length} bytes; {_LARGEST} are allowed")
        return self.take(length, what).decode("utf-8", errors="replace")

    def value(self, kind: int, what: str) -> object:
        """A value of one of GGUF's types; a list of numbers is one of Python's too.

        A float32 is the shortest decimal number that it stands for: a config's 1e-5, which was rounded to it.
        """
        if kind in _SCALARS:
            layout = _SCALARS[kind]
            found: object = struct.unpack(layout, self.take(struct.calcsize(layout), what))[0]
            return float(str(np.float32(found))) if kind == _FLOAT32 and isinstance(found, float) else found
        if kind == _TEXT:
            return self.text(what)
        if kind != _LIST:
            raise self.refuse(f"{what} has the type {kind}, which GGUF does not define")
        inner, count = self.number("<I", what), self.number("<Q", what)
        if count > _MOST:
            raise self.refuse(f"{what} claims {count} entries; {_MOST} are allowed")
        if inner in _SCALARS:
            size = struct.calcsize(_SCALARS[inner])
            raw = self.take(count * size, what)
            return list(struct.unpack(f"<{count}{_SCALARS[inner][1:]}", raw))
        if inner != _TEXT:
            raise self.refuse(f"{what} is a list of the type {inner}, which is not read")
        return [self.text(what) for _ in range(count)]

    def refuse(self, why: str) -> InputError:
        """The error for a file that is not what it should be."""
        return InputError(f"{self.path}: {why}; {_AGAIN}")


def read_file(path: Path) -> Header:
    """Read what stands before the data.

    Raises:
        InputError: it is not whole, or not of a version that is read; the message names the key or tensor.

    """
    reader = _Reader(path)
    if reader.take(4, "its magic number") != MAGIC:
        raise reader.refuse("it is no GGUF file")
    version = reader.number("<I", "its version")
    if version not in (2, 3):
        raise reader.refuse(f"its version is {version if version < 1 << 16 else 'big-endian'}; 2 and 3 are read")
    count, keys = reader.number("<Q", "the number of tensors"), reader.number("<Q", "the number of keys")
    if count > _MOST or keys > _MOST:
        raise reader.refuse(f"it claims {count} tensors and {keys} keys; {_MOST} are allowed")
    values: dict[str, object] = {}
    for number in range(keys):
        key = reader.text(f"key {number}")
        values[key] = reader.value(reader.number("<I", key), key)
    found = [_entry(reader, number) for number in range(count)]
    alignment = values.get(_ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
        raise reader.refuse(f"{_ALIGNMENT} = {alignment!r} is no multiple of 8")
    data = -(-reader.at // alignment) * alignment
    return Header(path, values, _placed(reader, found, data))


def _entry(reader: _Reader, number: int) -> Entry:
    name = reader.text(f"the name of tensor {number}")
    dimensions = reader.number("<I", name)
    if dimensions > 4:
        raise reader.refuse(f"{name} has {dimensions} dimensions; 4 are allowed")
    shape = tuple(reader.number("<Q", name) for _ in range(dimensions))[::-1]
    kind, offset = reader.number("<I", name), reader.number("<Q", name)
    return Entry(name, shape, kind, offset, _bytes_of(reader, name, shape, kind))


def _bytes_of(reader: _Reader, name: str, shape: tuple[int, ...], kind: int) -> int:
    count = math.prod(shape)
    if kind in FLOATS:
        return count * FLOATS[kind][1]
    blocks = BLOCKS.get(kind)
    if blocks is None:
        known = ", ".join([*(one for one, _ in FLOATS.values()), *(one.name for one in BLOCKS.values())])
        raise InputError(
            f"{reader.path}: {name} is stored as {OTHERS.get(kind, f'type {kind}')}; {known} are read: take a file of "
            "one of these types, or the original checkpoint"
        )
    if not shape or shape[-1] % blocks.size:
        raise reader.refuse(f"{name} has {list(shape)} numbers, no whole blocks of {blocks.name}'s {blocks.size}")
    return count // blocks.size * blocks.nbytes


def _placed(reader: _Reader, found: list[Entry], data: int) -> dict[str, Entry]:
    tensors: dict[str, Entry] = {}
    for entry in found:
        start = data + entry.offset
        if start + entry.nbytes > reader.size:
            raise reader.refuse(
                f"{entry.name} ends at byte {start + entry.nbytes} of {reader.size}: truncated, or the first of several"
            )
        if entry.name in tensors:
            raise reader.refuse(f"{entry.name} is there twice")
        tensors[entry.name] = Entry(entry.name, entry.shape, entry.kind, start, entry.nbytes)
    return tensors
