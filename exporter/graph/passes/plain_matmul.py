"""onnxruntime's own products → MatMul and Gather with float32 weights.

- FusedMatMul: ``α · op(A) op(B)``; a constant matrix is transposed when it is written
- MatMulNBits and GatherBlockQuantized: ``(code − zero point) · scale`` is computed exactly as the kernel does, when the
  weight is written, some rows at a time
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import unpack, unpack_zero_points
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.exporter.graph.weights import as_type
from edgepress.onnx_graph.tensors import Rows
from edgepress.onnx_graph.walk import attributes_of, operand

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_BIAS = 5  # MatMulNBits' input


def _apply(model: onnx.ModelProto, context: Context) -> int:
    rules = {
        (CONTRIB, "FusedMatMul"): _fused,
        (CONTRIB, "MatMulNBits"): _blocks,
        (CONTRIB, "GatherBlockQuantized"): _gather,
    }
    return rewrite(model, context.weights, rules)


def _fused(editor: Editor, node: onnx.NodeProto) -> bool:
    """``Mul(MatMul(Aᵀ or A, Bᵀ or B), α)``; onnxruntime's transBatch attributes are left alone."""
    attributes, y = attributes_of(node), node.output[0]
    if attributes.get("transBatchA") or attributes.get("transBatchB"):
        return False
    inputs = []
    for name, side in zip(node.input, ("A", "B"), strict=True):
        if not attributes.get(f"trans{side}"):
            inputs.append(name)
            continue
        transposed = _transposed(editor, name, f"{y}/{side}")
        if transposed is None:
            return False
        inputs.append(transposed)
    alpha = attributes.get("alpha", 1.0)
    if alpha == 1.0:
        editor.emit("MatMul", inputs, y)
        return True
    product = editor.emit("MatMul", inputs, f"{y}/product")
    editor.emit("Mul", [product, editor.constant(f"{y}/alpha", np.array(alpha, np.float32))], y)
    return True


def _transposed(editor: Editor, name: str, output: str) -> str | None:
    """The value with its last two axes exchanged, None when its rank is not known."""
    tensor = editor.constants.get(name)
    if tensor is not None and len(tensor.dims) == 2:
        return editor.weight(f"{name}.transposed", editor.weights.rows(tensor).T)
    shape = editor.shape(name)
    if shape is None:
        return None
    axes = list(range(len(shape)))
    if len(axes) > 1:
        axes[-2:] = axes[-1], axes[-2]
    return editor.emit("Transpose", [name], output, perm=axes)


@dataclass(frozen=True)
class _Codes:
    """Block-wise codes of a matrix (rows, columns): what MatMulNBits and GatherBlockQuantized read.

    A row has ``stored`` codes: MatMulNBits pads the last block, GatherBlockQuantized does not.
    """

    name: str
    rows: int
    columns: int
    bits: int
    block: int
    stored: int

    @property
    def blocks(self) -> int:
        return -(-self.columns // self.block)

    @property
    def row_bytes(self) -> int:
        return self.stored * self.bits // 8

    def weight(self, values: Rows, scales: NDArray[Any], zero_points: NDArray[Any] | None) -> Rows:
        """The matrix; ``zero_points`` is packed as uint8 (rows, bytes), or as numbers (rows, blocks)."""

        def read(start: int, stop: int) -> NDArray[np.float32]:
            codes = unpack(values.read(start, stop).reshape(stop - start, self.row_bytes), self.bits)
            if self.stored < self.blocks * self.block:
                codes = np.pad(codes, ((0, 0), (0, self.blocks * self.block - self.stored)))
            weights = codes.reshape(stop - start, self.blocks, self.block).astype(np.float32)
            if zero_points is None:
                weights -= np.float32(1 << (self.bits - 1))
            elif zero_points.dtype == np.uint8:
                weights -= unpack_zero_points(zero_points[start:stop], self.bits, self.blocks)[:, :, None]
            else:
                weights -= zero_points[start:stop, :, None].astype(np.float32)
            weights *= scales[start:stop, :, None].astype(np.float32)
            return weights.reshape(stop - start, -1)[:, : self.columns]

        return Rows((self.rows, self.columns), TensorProto.FLOAT, read)


def _blocks(editor: Editor, node: onnx.NodeProto) -> bool:
    """``MatMul(x, Wᵀ) (+ bias)`` in the type that x has, which is the scales'."""
    attributes, y = attributes_of(node), node.output[0]
    tensors = _constants(editor, node, (1, 2, 3))
    if tensors is None:
        return False
    if operand(node, 4):
        raise InputError(f"{y}: MatMulNBits with g_idx, which reorders columns, is not implemented; export without it")
    columns, block = attributes["K"], attributes["block_size"]
    stored = -(-columns // block) * block
    codes = _Codes(node.input[1], attributes["N"], columns, attributes["bits"], block, stored)
    weight = _dequantized(editor, codes, tensors)
    name = editor.weight(f"{codes.name}.matrix", weight.T)
    bias = operand(node, _BIAS)
    product = editor.emit("MatMul", [node.input[0], name], f"{y}/product" if bias else y)
    if bias:
        editor.emit("Add", [product, bias], y)
    return True


def _gather(editor: Editor, node: onnx.NodeProto) -> bool:
    """``Gather(W, indices)``, of matrices in which blocks are along a row and rows are gathered."""
    attributes = attributes_of(node)
    tensors = _constants(editor, node, (0, 2, 3))
    if tensors is None:
        return False
    table, scales = tensors[0], tensors[1]
    is_matrix = table is not None and scales is not None and len(table.dims) == 2
    packed = table is not None and table.data_type == TensorProto.UINT8
    if not is_matrix or attributes.get("gather_axis", 0) != 0 or attributes.get("quantize_axis", 1) not in (1, -1):
        return False
    assert table is not None
    assert scales is not None
    if not packed:  # int4 and uint4 count from 0, not from the middle
        return False
    bits, block = attributes.get("bits", 4), attributes.get("block_size", 128)
    columns = table.dims[1] * 8 // bits
    codes = _Codes(node.input[0], table.dims[0], columns, bits, block, columns)
    name = editor.weight(f"{codes.name}.table", _dequantized(editor, codes, tensors))
    editor.emit("Gather", [name, node.input[1]], node.output[0], axis=0)
    return True


def _constants(editor: Editor, node: onnx.NodeProto, indices: tuple[int, ...]) -> list[onnx.TensorProto | None] | None:
    """The constants at these inputs, None for one that is left out; None altogether when one is no constant."""
    found = [editor.constants.get(operand(node, index)) if operand(node, index) else None for index in indices]
    left_out = [not operand(node, index) for index in indices]
    return None if any(t is None and not out for t, out in zip(found, left_out, strict=True)) else found


def _dequantized(editor: Editor, codes: _Codes, tensors: list[onnx.TensorProto | None]) -> Rows:
    values, scale, zero_point = tensors
    assert values is not None
    assert scale is not None
    stored = editor.weights.rows(values)
    if stored.nbytes != codes.rows * codes.row_bytes:
        raise InputError(
            f"{codes.name} has {stored.nbytes} bytes, and {codes.rows} rows of {codes.stored} codes of "
            f"{codes.bits} bits take {codes.rows * codes.row_bytes}; the model is broken"
        )
    scales = editor.weights.array(scale).reshape(codes.rows, codes.blocks)
    zero_points = None if zero_point is None else editor.weights.array(zero_point).reshape(codes.rows, -1)
    rows = codes.weight(stored, scales, zero_points)
    if scale.data_type == TensorProto.FLOAT16:
        return as_type(rows, TensorProto.FLOAT16)
    return rows


PASS = Pass(
    name="plain-matmul",
    description="FusedMatMul, MatMulNBits and GatherBlockQuantized become MatMul and Gather with float weights",
    operators=tuple(f"{CONTRIB}.{op}" for op in ("FusedMatMul", "MatMulNBits", "GatherBlockQuantized")),
    apply=_apply,
)
