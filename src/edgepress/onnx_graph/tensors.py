"""Tensors of a model, read where they lie: in the model, or in files beside it that are looked at first.

A matrix may be gigabytes: :class:`Rows` gives it some rows at a time.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.disk.files import read_into
from edgepress.disk.hub_layout import is_hub_link
from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import InputError

Array = NDArray[Any]

PIECE = 32 << 20
"""Bytes of a weight that are made, read or copied at a time."""

_POINTER = 1024  # bytes of a data file that may be a git-lfs pointer
_HALF_BYTES = ("INT4", "UINT4", "FLOAT4E2M1")
_QUARTER_BYTES = ("INT2", "UINT2")


@dataclass(frozen=True)
class Rows:
    """A tensor, made some rows at a time: ``read(start, stop)`` gives (stop − start, …) of ``shape``.

    With ``transposed`` the tensor is the transpose of the matrix that ``read`` gives the rows of.
    """

    dims: tuple[int, ...]
    dtype: int
    read: Callable[[int, int], Array]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self.dims[::-1] if self.transposed else self.dims

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        return helper.tensor_dtype_to_np_dtype(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return int(np.prod(self.dims)) * self.numpy_dtype.itemsize

    @property
    def T(self) -> "Rows":  # noqa: N802 - numpy's name
        """The transpose of a matrix."""
        if len(self.dims) != 2:
            raise ValueError(f"shape {self.dims}: only matrices are transposed")
        return replace(self, transposed=not self.transposed)

    def array(self) -> Array:
        """The whole tensor."""
        whole = self.read(0, self.dims[0]) if self.dims else self.read(0, 1).reshape(())
        return np.ascontiguousarray(whole.T) if self.transposed else whole

    def pieces(self) -> Iterator[tuple[int, Array]]:
        """The rows that ``read`` gives, a bounded number at a time: (first row, rows)."""
        count = self.dims[0] if self.dims else 1
        step = max(1, PIECE * count // max(1, self.nbytes))
        for start in range(0, count, step):
            yield start, np.ascontiguousarray(self.read(start, min(start + step, count)))


def as_type(rows: Rows, dtype: int) -> Rows:
    """``rows`` converted to another type as they are read."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return replace(rows, dtype=dtype, read=lambda start, stop: rows.read(start, stop).astype(kind))


@dataclass(frozen=True)
class Region:
    """Bytes of a data file."""

    file: Path
    offset: int
    length: int


class TensorReader:
    """Reads the tensors of one model. ``model`` is its file, or the folder that it lies in; None for one without files.

    External data must lie in the model's folder; where links lead is looked at, and only those of the hub's cache may
    lead out of it.
    """

    def __init__(self, model: Path | None = None) -> None:
        self.model = model
        self._files: dict[str, tuple[Path, int]] = {}  # by location: the file and its size

    def rows(self, tensor: TensorProto) -> Rows:
        """The rows of a tensor; those of less than a byte an element have no rows, and :meth:`array` reads them."""
        if tensor.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor)
            return Rows(array.shape, tensor.data_type, lambda start, stop: np.atleast_1d(array)[start:stop])
        region, shape = self._whole(tensor), tuple(tensor.dims)
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
        row = math.prod(shape[1:]) * kind.itemsize

        def read(start: int, stop: int) -> Array:
            content = read_region(Region(region.file, region.offset + start * row, (stop - start) * row), tensor.name)
            return content.view(kind).reshape(stop - start, *shape[1:])

        return Rows(shape, tensor.data_type, read)

    def array(self, tensor: TensorProto) -> Array:
        """The whole of a tensor."""
        is_packed = _bits(tensor) < 8
        return numpy_helper.to_array(self.inline(tensor)) if is_packed else self.rows(tensor).array()

    def inline(self, tensor: TensorProto) -> TensorProto:
        """A tensor with its bytes inside, wherever they lie."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        content = read_region(self._whole(tensor), tensor.name).tobytes()
        return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=content)

    def _whole(self, tensor: TensorProto) -> Region:
        """Where the bytes of a tensor lie, as many as its shape says."""
        region, expected = self.region(tensor), (math.prod(tensor.dims) * _bits(tensor) + 7) // 8
        if region.length != expected:
            raise InputError(
                f"{self.model}: tensor {tensor.name!r} has {region.length:,} bytes, its shape {[*tensor.dims]} says "
                f"{expected:,}; the file is broken"
            )
        return region

    def region(self, tensor: TensorProto) -> Region:
        """Where the bytes of an external tensor lie.

        Raises:
            InputError: that is no file in the model's folder, or one that is too short.

        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in self._files:
            self._files[location] = self._look_at(tensor.name, location)
        file, size = self._files[location]
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries["length"]) if entries.get("length") else max(size - offset, 0)
        except ValueError:
            raise InputError(
                f"{self.model}: tensor {tensor.name!r} has an offset or length that is no number"
            ) from None
        if min(offset, length) < 0:
            raise InputError(
                f"{self.model}: tensor {tensor.name!r} has a negative offset or length ({offset}, {length})"
            )
        if offset + length > size:
            raise InputError(
                f"{self.model}: tensor {tensor.name!r} ends at byte {offset + length:,} of {location!r}, which has "
                f"{size:,}; the data file is truncated or belongs to another model"
            )
        return Region(file, offset, length)

    def _look_at(self, tensor: str, location: str) -> tuple[Path, int]:
        """An external data file and its size; it in the model's folder or the hub cache's, all links followed."""
        if self.model is None:
            raise InputError(f"{tensor} is in another file; say in which folder the model lies")
        where = f"{self.model}: tensor {tensor!r} is in {location!r}"
        if not location or "\0" in location:
            raise InputError(f"{self.model}: tensor {tensor!r} is external and names no file")
        if Path(location).is_absolute() or location.startswith("\\") or location[1:2] == ":":
            raise InputError(f"{where}, an absolute path; external data must lie beside the model")
        if ".." in location.replace("\\", "/").split("/"):
            raise InputError(f"{where}, outside the model's folder; external data must lie beside the model")
        try:
            is_folder = self.model.is_dir()
            folder = self.model if is_folder else self.model.parent
            file = folder / location
            if not os.access(file, os.R_OK) or not file.is_file():
                raise InputError(f"{where}, which is missing or unreadable; copy it beside the model")
            # As onnxruntime has it: looked for beside the name of the model, it may lie beside that or beside the file.
            real, folders = file.resolve(), [folder.resolve(), *([] if is_folder else [self.model.resolve().parent])]
            if not any(map(real.is_relative_to, folders)) and not is_hub_link(file, folder):
                raise InputError(f"{where}, a link that leads outside the model's folder, to {real}")
            size = real.stat().st_size
            if size <= _POINTER:
                refuse_pointer(file, real.read_bytes())
            return file, size
        except (OSError, RuntimeError) as error:  # a name that is too long, or links that form a loop
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{where}: {words}") from error


def read_region(region: Region, name: str) -> NDArray[np.uint8]:
    """The bytes of a region, (length,); InputError that names the tensor ``name`` when the file has fewer by now."""
    content = np.empty(region.length, np.uint8)
    if read_into(region.file, region.offset, content.data) != region.length:
        raise InputError(f"{region.file} ended inside {name}; the file is cut short")
    return content


def _bits(tensor: TensorProto) -> int:
    """Bits that an element is stored in."""
    kind = TensorProto.DataType.Name(tensor.data_type)
    if kind in _HALF_BYTES:
        return 4
    return 2 if kind in _QUARTER_BYTES else 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
