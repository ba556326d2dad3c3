"""What a bundle of any graph stores, decoded by hand: an oracle for what it computes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter.graph.foreign.normal import read_normal


def decoded(bundle: Path, tensor: dict[str, Any]) -> np.ndarray:
    """A stored weight (rows, columns) by the layout of the README: codes in blocks, the first in the lowest bits."""
    data = (bundle / "model.onnx.data").read_bytes()

    def region(name: str, kind: str) -> np.ndarray:
        offset, size = tensor["regions"][name]
        return np.frombuffer(data[offset : offset + size], kind)

    shape, scheme = tensor["shape"], tensor["scheme"]
    if scheme is None:
        return region("data", "<f2" if tensor["form"] == "half" else "<f4").astype(np.float32).reshape(shape)
    rows, columns = shape
    bits, block = scheme["bits"], scheme["block_size"]
    blocks = -(-columns // block)
    places = np.arange(8 // bits) * bits
    codes = (region("values", "u1")[:, None] >> places) & (2**bits - 1)
    codes = codes.reshape(rows, blocks, block).astype(np.float32)
    zeros = np.full((rows, blocks), 2 ** (bits - 1), np.float32)
    if not scheme["symmetric"]:
        packed = region("zero_points", "u1").reshape(rows, -1)
        zeros = ((packed[:, :, None] >> places) & (2**bits - 1)).reshape(rows, -1)[:, :blocks].astype(np.float32)
    scales = region("scales", "<f4").reshape(rows, blocks)
    return ((codes - zeros[:, :, None]) * scales[:, :, None]).reshape(rows, -1)[:, :columns]


def with_stored(file: Path, bundle: Path) -> onnx.ModelProto:
    """The float graph of ``file`` with the weights that a bundle stores.

    A matrix that is stored with rows and columns exchanged is the one that is nearer to the float values that way.
    """
    model, weights = read_normal(file)
    stored = {str(tensor["name"]): tensor for tensor in read_manifest(bundle).tensors}
    for index, tensor in enumerate(model.graph.initializer):
        made = weights.inline(tensor)
        if tensor.name in stored:
            value, matrix = numpy_helper.to_array(made), decoded(bundle, stored[tensor.name])
            ways = [matrix.reshape(value.shape)]
            if value.ndim == 2 and matrix.shape == value.shape[::-1]:
                ways.append(matrix.T)
            nearest = min(ways, key=lambda way: float(np.abs(way - value).sum()))
            made = numpy_helper.from_array(np.array(nearest, np.float32, order="C"), tensor.name)
        model.graph.initializer[index].CopyFrom(made)
    return model
