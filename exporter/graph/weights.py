"""Weights of a graph that is being rewritten: read where they lie, computed when they are written.

A pass that turns 4-bit codes into a float32 matrix does not make the matrix: it says how its rows are made
(:class:`~edgepress.onnx_graph.tensors.Rows`). Rows are made when the file is written, a piece at a time, so that memory
is bounded by a piece and not by the model; weights that no pass touches are copied from file to file by region.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.onnx_graph.tensors import PIECE, Region, Rows, TensorReader, read_region
from edgepress.onnx_graph.walk import graphs

_PENDING = "edgepress:pending"  # the location of a weight that is written later
_INLINE = 1024  # bytes up to which a tensor stays inside the model file
_ALIGNMENT = 4096  # of regions in the data file: onnxruntime maps whole pages


def as_type(rows: Rows, dtype: int) -> Rows:
    """``rows`` converted to another type as they are read."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return replace(rows, dtype=dtype, read=lambda start, stop: rows.read(start, stop).astype(kind))


class Weights(TensorReader):
    """Where the initializers of a model are read, and where passes put new ones.

    Without ``model`` (a file or its folder) the model holds its own bytes, or none are needed: what a pass adds is
    made at once and put into it. With one, external data is read from there, and what is added stays pending until
    :meth:`write`.
    """

    def __init__(self, model: Path | None = None) -> None:
        super().__init__(model)
        self._pending: dict[str, Rows] = {}

    def rows(self, tensor: TensorProto) -> Rows:
        """The rows of an initializer, stored or pending; sub-byte types have none."""
        return self._pending[tensor.name] if self._is_pending(tensor) else super().rows(tensor)

    def inline(self, tensor: TensorProto) -> TensorProto:
        """A tensor with its bytes inside, wherever they lie or whenever they are made."""
        pending = tensor.data_location == TensorProto.EXTERNAL and self._is_pending(tensor)
        return numpy_helper.from_array(self.rows(tensor).array(), tensor.name) if pending else super().inline(tensor)

    def _is_pending(self, tensor: TensorProto) -> bool:
        return tensor.name in self._pending and tensor.external_data[0].value == _PENDING

    def is_stored(self, tensor: TensorProto) -> bool:
        """Whether an initializer's bytes are in a file already."""
        return tensor.data_location == TensorProto.EXTERNAL and not self._is_pending(tensor)

    def tensor(self, name: str, rows: Rows) -> TensorProto:
        """The initializer ``name`` of what ``rows`` gives, pending if it is large and there is a model's file."""
        if self.model is None or rows.nbytes <= _INLINE:
            return numpy_helper.from_array(rows.array(), name)
        self._pending[name] = rows
        tensor = TensorProto(name=name, data_type=rows.dtype, dims=rows.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=_PENDING)
        return tensor

    def write(self, models: Iterable[onnx.ModelProto], path: Path) -> None:
        """Write every weight of ``models`` to the data file ``path``, once for all of them, and refer to it there.

        Weights of the same name must be the same. The bytes do not depend on anything but the models.
        """
        written: dict[str | Region, tuple[int, int]] = {}
        with path.open("w+b") as file:
            for tensor in (t for model in models for graph in graphs(model.graph) for t in graph.initializer):
                if tensor.data_location == TensorProto.EXTERNAL:
                    key = tensor.name if self._is_pending(tensor) else self.region(tensor)  # what tells weights apart
                    if key not in written:
                        written[key] = self._append(tensor, file.fileno())
                    refer(tensor, path.name, *written[key])

    def _append(self, tensor: TensorProto, descriptor: int) -> tuple[int, int]:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if not self._is_pending(tensor):
            region = self.region(tensor)
            for start in range(0, region.length, PIECE):
                piece = Region(region.file, region.offset + start, min(PIECE, region.length - start))
                _pwrite(descriptor, read_region(piece, tensor.name).data, offset + start)
            return offset, region.length
        rows = self._pending[tensor.name]
        kind = rows.numpy_dtype.newbyteorder("<")
        width = rows.nbytes // rows.dims[0]
        for first, piece_of_rows in rows.pieces():
            stored = piece_of_rows.astype(kind, copy=False)
            if not rows.transposed:
                _pwrite(descriptor, stored.data, offset + first * width)
                continue
            for column, values in enumerate(np.ascontiguousarray(stored.T)):  # one write a column, not an element
                _pwrite(descriptor, values.data, offset + (column * rows.dims[0] + first) * kind.itemsize)
        return offset, rows.nbytes


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Have a tensor's bytes lie in a data file instead of where they were."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _pwrite(descriptor: int, content: memoryview, offset: int) -> None:
    view = content.cast("B")
    os.lseek(descriptor, offset, os.SEEK_SET)
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
