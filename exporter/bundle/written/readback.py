"""Read weights back from a bundle's data file, as its graph uses them and in the checkpoint's names and shapes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.arrays import integer
from edgepress.exporter.arrays.packing import dequantize
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Plan, PlannedTensor


def _joined(pieces: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Rows by where each piece begins; zeros before the first, where a bundle has no use for these."""
    first = min(pieces)
    before = np.zeros((first, *pieces[first].shape[1:]), np.float32)
    return np.concatenate([before, *(pieces[start] for start in sorted(pieces))])


class StoredWeights:
    """The inverse of an export: ``weights(name)`` is what the bundle stores for checkpoint tensor ``name``.

    This is how a quantized bundle is compared with the reference model: put these weights back into it, and what
    still differs is the graph, not the quantization.
    """

    def __init__(self, data_file: Path, plan: Plan) -> None:
        self._data_file = data_file
        self._tensors = {tensor.weight.name: tensor for tensor in plan.tensors}
        self._holders: dict[str, list[PlannedTensor]] = {}
        for tensor in plan.tensors:
            for name in dict.fromkeys(part.tensor for part in tensor.weight.parts):
                self._holders.setdefault(name, []).append(tensor)

    def __call__(self, name: str) -> NDArray[np.float32]:
        """Return checkpoint tensor ``name`` dequantized, float32, in the shape that the checkpoint has.

        Rows before that of the first position, which the bundle has no use for, are zeros; of rows that are stored
        twice (keys that are values, too) it is what was stored first.

        Raises:
            KeyError: the bundle stores no such tensor (a tied head, for one, is stored as the embedding).

        """
        pieces: dict[int | None, dict[int, NDArray[np.float32]]] = {}  # by matrix of the tensor, and first row
        transposed = False
        for tensor in self._holders[name]:
            row = 0
            for number, part in enumerate(tensor.weight.parts):
                count = part.stop - part.start
                if part.tensor == name:
                    turns = tensor.weight.interleaved
                    rows = self.rows(tensor, 0, 2 * count)[number::2] if turns else self.rows(tensor, row, row + count)
                    pieces.setdefault(part.index, {}).setdefault(part.start, rows)
                    transposed = part.transposed
                row += count
        # one tensor may be cut into several weights (a fused gate_up_proj), always along its rows
        matrices = {index: _joined(found) for index, found in pieces.items()}
        if transposed:
            matrices = {index: np.ascontiguousarray(matrix.T) for index, matrix in matrices.items()}
        return matrices[None] if None in matrices else np.stack([matrices[index] for index in range(len(matrices))])

    def value(self, weight: Weight) -> NDArray[np.float32]:
        """Return ``weight`` as the graph computes with it: dequantized, ``plus`` added, (rows, columns) or (rows,).

        Raises:
            KeyError: the plan has no such weight.

        """
        tensor = self._tensors.get(weight.name)
        if tensor is None:  # a tied head is stored as the embedding
            tensor = next(other for other in self._tensors.values() if other.weight.parts == weight.parts)
        return self.rows(tensor, 0, weight.shape[0]) + np.float32(0 if tensor.scheme else weight.plus)

    def rows(self, tensor: PlannedTensor, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows ``start`` to ``stop`` of one planned tensor as stored, (rows, columns) or (rows,)."""
        count, *rest = tensor.weight.shape
        scheme, rows = tensor.scheme, range(start, min(stop, count))
        if scheme is None:
            data = self._part(tensor, "data", "<f2" if tensor.form == "half" else "<f4", (count, *rest), rows)
            return np.asarray(data - np.float32(tensor.weight.plus), np.float32)
        columns = rest[0]
        if tensor.is_integer:
            kind = "i1" if tensor.form == "dynamic pairs" else "u1"
            codes = self._part(tensor, "values", kind, (columns, count), range(columns))[:, start:stop]
            return integer.dequantize(codes.T, self._part(tensor, "scales", "<f4", (count,), rows))
        values = self._part(tensor, "values", "u1", scheme.values_shape(count, columns), rows)
        kind = "<f2" if tensor.form == "half blocks" else "<f4"
        scales = self._part(tensor, "scales", kind, scheme.scales_shape(count, columns), rows).astype(np.float32)
        zero_points = None
        if not scheme.symmetric:
            zero_points = self._part(tensor, "zero_points", "u1", scheme.zero_points_shape(count, columns), rows)
        found = dequantize(values, scales, scheme, columns, zero_points)
        if not tensor.weight.ordered:
            return found
        order = self._part(tensor, "order", "<i4", (columns,), range(columns))
        return found[:, np.argsort(order)]

    def _part(self, tensor: PlannedTensor, part: str, dtype: str, shape: tuple[int, ...], rows: range) -> NDArray[Any]:
        """Some rows of a region of that shape; nothing else is read."""
        width = math.prod(shape[1:])
        offset = tensor.regions[part].offset + rows.start * width * np.dtype(dtype).itemsize
        stored: NDArray[Any] = np.fromfile(self._data_file, dtype, len(rows) * width, offset=offset)
        return stored.reshape(len(rows), *shape[1:])
