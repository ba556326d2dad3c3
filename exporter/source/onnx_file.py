"""Weights of an ONNX file, read a few rows at a time."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.source.packed import Codes, Grid
from edgepress.exporter.source.part import Part
from edgepress.files import sha256_file
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.tensors import Rows, TensorReader
from edgepress.onnx_graph.values import Scope

_PIECE = 1 << 18  # elements of a stored matrix read at a time when some of its columns are wanted


class OnnxFile:
    """An ONNX model that was read safely (see :func:`~edgepress.onnx_graph.files.read_model`), its weights unread."""

    def __init__(self, path: Path) -> None:
        self.path, self.model = path, read_model(path)
        self.tensors = Scope(self.model).constants
        self._reader = TensorReader(path)
        self._rows = cache(self._open)

    def _open(self, name: str) -> Rows:
        return self._reader.rows(self.tensors[name])

    def itemsize(self, name: str) -> int:
        """Bytes of an element of the tensor ``name``."""
        return int(onnx.helper.tensor_dtype_to_np_dtype(self.tensors[name].data_type).itemsize)

    def part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``, counted within ``part``, as float32: (stop − start, columns) or (stop − start,).

        Rows of a transposed part are columns of the stored matrix, all of which is then read, in bounded pieces.

        Raises:
            InputError: one of the values is NaN or infinite.

        """
        first, last = part.start + start, part.start + stop
        stored = self._rows(part.tensor)
        if part.transposed:
            height, width = stored.dims
            rows = np.empty((last - first, height), np.float32)
            step = max(1, _PIECE // width)
            for row in range(0, height, step):
                piece = stored.read(row, min(row + step, height))  # (piece rows, width)
                rows[:, row : row + len(piece)] = piece[:, first:last].T
        else:
            rows = np.asarray(stored.read(first, last), np.float32)
        if not np.isfinite(rows).all():
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
        return part.transposed

    def inline(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """A tensor with its bytes inside, wherever they lie."""
        return self._reader.inline(tensor)

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of the file, and of those beside it that hold its weights, by name."""
        external = [t for t in self.tensors.values() if t.data_location == onnx.TensorProto.EXTERNAL]
        files = {self.path.name: self.path}
        for tensor in external:
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            files[location] = self._reader.region(tensor).file
        return {name: sha256_file(file) for name, file in sorted(files.items())}
