"""One safetensors file: its header, strictly checked, and bounded reads of its tensors as float32.

Parsed here rather than by the safetensors package for two reasons: a mapped file's pages count in resident memory
until they are unmapped, so rows are read into small buffers instead; and numpy has no bfloat16.
Format: https://github.com/huggingface/safetensors#format
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.disk.files import read_into
from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import InputError
from edgepress.schema import parse_object

READABLE = ("F32", "F16", "BF16")  # dtypes that become weights; the others may be present, unused
_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_MAX_HEADER = 100_000_000  # bytes, the format's own limit
_POINTER = 200  # bytes that show whether a file is a git-lfs pointer
_MOST_DIMENSIONS = 32
_AGAIN = "download or convert the checkpoint again"


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes are: ``offset`` counts from the start of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element of a readable dtype."""
        self.check_readable()
        return _BITS[self.dtype] // 8

    @property
    def stored_itemsize(self) -> float:
        """Bytes that the file has for an element, on average."""
        return self.itemsize

    @property
    def row_nbytes(self) -> int:
        """Bytes in one row: one step along the first dimension."""
        return self.nbytes // self.shape[0] if self.shape and self.shape[0] else 0

    def check_readable(self) -> None:
        """Raise InputError when the dtype cannot become a weight."""
        if self.dtype not in READABLE:
            raise InputError(
                f"{self.file.name}: {self.name} has dtype {self.dtype}; weights must be one of {', '.join(READABLE)}: "
                "save the checkpoint in one of them (an already quantized one cannot be quantized again)"
            )

    def read(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` bytes of the tensor from its byte ``start`` on."""
        if not 0 <= start <= start + nbytes <= self.nbytes:
            raise ValueError(f"bytes {start}:{start + nbytes} of {self.name}, which has {self.nbytes}")
        raw = np.empty(nbytes, np.uint8)
        with read_errors(self.file):
            done = read_into(self.file, self.offset + start, raw.data)
        if done < nbytes:
            raise InputError(f"{self.file} ended {nbytes - done} bytes early inside {self.name}; {_AGAIN}")
        return raw

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` as float32, (stop − start, …): exact, for every readable dtype."""
        self.check_readable()
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start}:{stop} of {self.name}, which has {self.shape[0]}")
        raw = self.read(start * self.row_nbytes, (stop - start) * self.row_nbytes)
        return to_float32(raw, self.dtype).reshape(stop - start, *self.shape[1:])


def to_float32(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Little-endian bytes of a readable dtype as float32, (elements,)."""
    if dtype == "BF16":  # the upper half of a float32
        words = raw.view("<u2").astype(np.uint32)
        np.left_shift(words, np.uint32(16), out=words)
        return words.view(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4").astype(np.float32, copy=False)


@contextmanager
def read_errors(file: Path) -> Iterator[None]:
    """Turn an OSError, met while reading ``file``, into an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror or error}; check that it is there and readable"
        ) from error


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, in the order of its bytes, which must cover the file without holes.

    Raises:
        InputError: the file is truncated or its header is not what the format allows.

    """
    with read_errors(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        refuse_pointer(file, stream.read(_POINTER))
        stream.seek(0)
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise InputError(f"{file} has {size} bytes, too few for a safetensors header; {_AGAIN}")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER:
            raise InputError(
                f"{file}: the header claims {length} bytes, the format allows {_MAX_HEADER}; not a safetensors file?"
            )
        if 8 + length > size:
            raise InputError(f"{file} has {size} bytes, its header alone needs {8 + length}: truncated; {_AGAIN}")
        text = stream.read(length)
    entries = parse_object(text, file, _AGAIN)
    entries.pop("__metadata__", None)
    tensors = sorted((_entry(file, name, entry, 8 + length) for name, entry in entries.items()), key=_place)
    _check_layout(file, tensors, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}


def _place(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.offset, tensor.nbytes


def _natural_numbers(value: object) -> tuple[int, ...] | None:
    """``value`` as a tuple when it is a list of integers ≥ 0 (JSON's true is not one), as many as a shape may have."""
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return None
    if not all(type(item) is int and item >= 0 for item in value):
        return None
    return tuple(value)


def _entry(file: Path, name: str, entry: object, base: int) -> StoredTensor:
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{file}: {name} needs exactly dtype, shape and data_offsets in the header; {_AGAIN}")
    dtype, shape, offsets = entry["dtype"], _natural_numbers(entry["shape"]), _natural_numbers(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise InputError(f"{file}: {name} has dtype {dtype!r}, which safetensors does not define; {_AGAIN}")
    if shape is None:
        raise InputError(f"{file}: {name} has shape {entry['shape']!r}, not a list of numbers ≥ 0; {_AGAIN}")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{file}: {name} has data_offsets {entry['data_offsets']!r}, not [begin, end]; {_AGAIN}")
    bits = math.prod(shape) * _BITS[dtype]
    if bits != (offsets[1] - offsets[0]) * 8:
        raise InputError(
            f"{file}: {name} is {dtype} {list(shape)}, {-(-bits // 8)} bytes, "
            f"and its data_offsets hold {offsets[1] - offsets[0]}; {_AGAIN}"
        )
    return StoredTensor(name, dtype, shape, file, base + offsets[0], offsets[1] - offsets[0])


def _check_layout(file: Path, tensors: list[StoredTensor], base: int, size: int) -> None:
    """Hold that the tensors, sorted by place, follow each other without overlap or hole and end with the file."""
    end = base
    for tensor in tensors:
        if tensor.offset != end:
            what = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise InputError(
                f"{file}: {tensor.name} {what}: it begins at byte {tensor.offset - base} of the data, "
                f"not {end - base}; {_AGAIN}"
            )
        end += tensor.nbytes
    if end > size:
        raise InputError(f"{file} has {size} bytes and its header describes {end}: truncated; {_AGAIN}")
    if end < size:
        raise InputError(f"{file} has {size} bytes, {size - end} more than its header describes; {_AGAIN}")
