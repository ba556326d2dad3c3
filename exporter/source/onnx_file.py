"""Weights of an ONNX model, read a few rows at a time."""

from collections.abc import Collection, Mapping
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.exporter.source.packed import Codes, Grid
from edgepress.exporter.source.part import Part
from edgepress.onnx_graph.tensors import Rows, TensorReader
from edgepress.onnx_graph.walk import tensors

_PIECE = 1 << 18  # elements of a stored matrix read at a time when some of its columns are wanted


class OnnxFile:
    """The initializers of ``model``, which was read safely from ``path``; ``reader`` knows where their bytes lie.

    ``unbounded`` are those that may hold infinity, as masks do; ``hashes`` has the SHA-256 of each file that the model
    was made of.
    """

    def __init__(
        self,
        path: Path,
        model: onnx.ModelProto,
        reader: TensorReader,
        *,
        unbounded: Collection[str] = (),
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self._reader, self._unbounded = path, reader, unbounded
        self._hashes = dict(hashes or {})
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._rows = cache(self._open)

    def _open(self, name: str, leading: int) -> Rows:
        """A tensor as a matrix; one of a single axis as it is."""
        tensor = self.tensors[name]
        stored = self._reader.rows(tensor)
        if len(tensor.dims) <= 2:
            return stored
        shape = (prod(tensor.dims[:leading]), prod(tensor.dims[leading:]))
        if leading == 1:
            return Rows(shape, stored.dtype, lambda start, stop: stored.read(start, stop).reshape(stop - start, -1))
        return Rows(shape, stored.dtype, lambda start, stop: stored.array().reshape(shape)[start:stop])

    def itemsize(self, name: str) -> int:
        """Bytes of an element of the tensor ``name``."""
        return int(onnx.helper.tensor_dtype_to_np_dtype(self.tensors[name].data_type).itemsize)

    def part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``, counted within ``part``, as float32: (stop − start, columns) or (stop − start,).

        Rows of a transposed part are columns of the stored matrix, all of which is then read, in bounded pieces.

        Raises:
            InputError: one of the values is NaN, or infinite where that is no mask.

        """
        first, last = part.start + start, part.start + stop
        stored = self._rows(part.tensor, part.leading)
        if part.transposed != stored.transposed:
            height, width = stored.dims
            rows = np.empty((last - first, height), np.float32)
            step = max(1, _PIECE // width)
            for row in range(0, height, step):
                piece = stored.read(row, min(row + step, height))  # (piece rows, width)
                rows[:, row : row + len(piece)] = piece[:, first:last].T
        else:
            rows = np.asarray(stored.read(first, last), np.float32)
        if np.isnan(rows).any() or (part.tensor not in self._unbounded and np.isinf(rows).any()):
            raise InputError(
                f"{self.path}: {part.tensor} holds NaN or infinite values; the model is damaged or its training "
                "diverged: take another one"
            )
        return rows

    def part_codes(self, part: Part, _start: int, _stop: int) -> tuple[Grid, Codes]:
        """An ONNX file of floats has none."""
        raise ValueError(f"{part.tensor} is stored in floats, not in codes")

    def part_order(self, part: Part) -> NDArray[np.int32] | None:  # noqa: ARG002 - those of codes have some
        """Columns of floats are in their places."""
        return None

    def by_columns(self, part: Part) -> bool:
        """Whether rows of ``part`` are columns of the stored matrix."""
        return part.transposed != self._rows(part.tensor, part.leading).transposed

    def array(self, name: str) -> NDArray[np.generic]:
        """The whole of one tensor, in its own shape."""
        return self._reader.array(self.tensors[name])

    def inline(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """A tensor with its bytes inside, wherever they lie."""
        return self._reader.inline(tensor)

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of each file that the model was made of, by name."""
        return self._hashes


def hash_files(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    """SHA-256 of the ONNX file ``path``, and of those beside it that hold the weights of ``model``, by name."""
    reader, files = TensorReader(path), {path.name: path}
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            files[location] = reader.region(tensor).file
    return {name: sha256_file(file) for name, file in sorted(files.items())}
