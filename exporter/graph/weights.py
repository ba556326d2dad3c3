"""Weights of a graph that is being rewritten: read where they lie, computed when they are written.

A pass that turns 4-bit codes into a float32 matrix does not make the matrix: it says how its rows are made
(:class:`Rows`). Rows are made when the file is written, a piece at a time, so that memory is bounded by a piece and not
by the model; weights that no pass touches are copied from file to file by region.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.files import read_into
from edgepress.hub_layout import is_hub_link

Array = NDArray[Any]

_PENDING = "edgepress:pending"  # the location of a weight that is written later
_PIECE = 32 << 20  # bytes of a weight made or copied at a time
_INLINE = 1024  # bytes up to which a tensor stays inside the model file
_ALIGNMENT = 4096  # of regions in the data file: onnxruntime maps whole pages


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
        step = max(1, _PIECE * count // max(1, self.nbytes))
        for start in range(0, count, step):
            yield start, np.ascontiguousarray(self.read(start, min(start + step, count)))


def as_type(rows: Rows, dtype: int) -> Rows:
    """``rows`` converted to another type as they are read."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return replace(rows, dtype=dtype, read=lambda start, stop: rows.read(start, stop).astype(kind))


@dataclass(frozen=True)
class _Region:
    file: Path
    offset: int
    length: int


@dataclass
class Weights:
    """Where the initializers of a model are read, and where passes put new ones.

    Without a ``folder`` the model holds its own bytes (or none are needed): what a pass adds is made at once and put
    into it. With one, external data is read from there, and what is added stays pending until :meth:`write`.
    """

    folder: Path | None = None
    _pending: dict[str, Rows] = field(default_factory=dict)

    def rows(self, tensor: onnx.TensorProto) -> Rows:
        """The rows of an initializer; sub-byte types are refused, as those have their own reader."""
        if tensor.name in self._pending and _location(tensor) == _PENDING:
            return self._pending[tensor.name]
        if tensor.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor)
            return Rows(array.shape, tensor.data_type, lambda start, stop: np.atleast_1d(array)[start:stop])
        region, shape = self._region(tensor), tuple(tensor.dims)
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
        row = int(np.prod(shape[1:])) * kind.itemsize if shape else kind.itemsize
        if region.length != row * (shape[0] if shape else 1):
            raise InputError(
                f"{region.file.name}: {tensor.name} has {region.length} bytes, its shape {list(shape)} says "
                f"{row * (shape[0] if shape else 1)}; the file is broken"
            )

        def read(start: int, stop: int) -> Array:
            content = _read(region.file, region.offset + start * row, (stop - start) * row, tensor.name)
            return content.view(kind).reshape(stop - start, *shape[1:])

        return Rows(shape, tensor.data_type, read)

    def packed(self, tensor: onnx.TensorProto) -> Array:
        """An initializer's bytes as they are stored, (bytes,); for codes of less than a byte."""
        if tensor.data_location == TensorProto.EXTERNAL:
            region = self._region(tensor)
            return _read(region.file, region.offset, region.length, tensor.name)
        if tensor.raw_data:
            return np.frombuffer(tensor.raw_data, np.uint8)
        return np.array([value & 0xFF for value in tensor.int32_data], np.uint8)

    def is_stored(self, tensor: onnx.TensorProto) -> bool:
        """Whether an initializer's bytes are in a file already."""
        return tensor.data_location == TensorProto.EXTERNAL and _location(tensor) != _PENDING

    def array(self, tensor: onnx.TensorProto) -> Array:
        """The whole of an initializer."""
        return self.rows(tensor).array()

    def tensor(self, name: str, rows: Rows) -> onnx.TensorProto:
        """The initializer ``name`` of what ``rows`` gives, pending if it is large and there is a folder."""
        if self.folder is None or rows.nbytes <= _INLINE:
            return numpy_helper.from_array(rows.array(), name)
        self._pending[name] = rows
        tensor = TensorProto(name=name, data_type=rows.dtype, dims=rows.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=_PENDING)
        return tensor

    def write(self, models: Iterable[onnx.ModelProto], path: Path) -> None:
        """Write every weight of ``models`` to the data file ``path``, once for all of them, and refer to it there.

        Weights of the same name must be the same. The bytes do not depend on anything but the models.
        """
        written: dict[tuple[str, object], tuple[int, int]] = {}
        with path.open("w+b") as file:
            for tensor in (tensor for model in models for tensor in initializers(model.graph)):
                if tensor.data_location == TensorProto.EXTERNAL:
                    key = self._identity(tensor)
                    if key not in written:
                        written[key] = self._append(tensor, file.fileno())
                    _refer(tensor, path.name, *written[key])

    def _identity(self, tensor: onnx.TensorProto) -> tuple[str, object]:
        """What tells weights apart: the name of a pending one, the place of a stored one."""
        return (tensor.name, None) if _location(tensor) == _PENDING else ("", self._region(tensor))

    def _append(self, tensor: onnx.TensorProto, descriptor: int) -> tuple[int, int]:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if _location(tensor) != _PENDING:
            region = self._region(tensor)
            for start in range(0, region.length, _PIECE):
                count = min(_PIECE, region.length - start)
                content = _read(region.file, region.offset + start, count, tensor.name)
                _pwrite(descriptor, content.data, offset + start)
            return offset, region.length
        rows = self._pending[tensor.name]
        kind = rows.numpy_dtype.newbyteorder("<")
        width = rows.nbytes // rows.dims[0]
        for first, piece in rows.pieces():
            stored = piece.astype(kind, copy=False)
            if not rows.transposed:
                _pwrite(descriptor, stored.data, offset + first * width)
                continue
            for column, values in enumerate(np.ascontiguousarray(stored.T)):  # one write a column, not an element
                _pwrite(descriptor, values.data, offset + (column * rows.dims[0] + first) * kind.itemsize)
        return offset, rows.nbytes

    def _region(self, tensor: onnx.TensorProto) -> _Region:
        """Where an external tensor lies; InputError when that is outside the model's folder or the file."""
        if self.folder is None:
            raise InputError(f"{tensor.name} is in another file; say in which folder the model lies")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        pure = PurePosixPath(location)
        file = self.folder / location
        within = file.resolve().is_relative_to(self.folder.resolve()) or is_hub_link(file, self.folder)
        if pure.is_absolute() or ".." in pure.parts or not within:
            raise InputError(f"{tensor.name} is said to be in {location!r}, outside of {self.folder}; refused")
        if not file.is_file():
            raise InputError(f"{file} is missing, where {tensor.name} is; copy it beside the model")
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", file.stat().st_size - offset))
        except ValueError as error:
            raise InputError(f"{tensor.name}: its place in {location!r} is not a number: {error}") from error
        if not 0 <= offset <= offset + length <= file.stat().st_size:
            raise InputError(
                f"{file} has {file.stat().st_size} bytes, and {tensor.name} is said to be at {offset} to "
                f"{offset + length}; the file is cut short"
            )
        return _Region(file, offset, length)


def initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of a graph and of the graphs inside its nodes."""
    for inner in graphs(graph):
        yield from inner.initializer


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs inside its nodes (If, Loop, Scan), outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _read(file: Path, offset: int, count: int, name: str) -> NDArray[np.uint8]:
    content = np.empty(count, np.uint8)
    if read_into(file, offset, content.data) != count:
        raise InputError(f"{file} ended inside {name}; the file is cut short")
    return content


def _pwrite(descriptor: int, content: memoryview, offset: int) -> None:
    view = content.cast("B")
    os.lseek(descriptor, offset, os.SEEK_SET)
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages print it: ``2 × 3``."""
    return " × ".join(map(str, shape)) or "scalar"
