"""Products in integers → MatMul in float32 with the same weights; activations are not rounded any more.

- DynamicQuantizeMatMul and MatMulIntegerToFloat: weights dequantized, as stored
- QuantizeLinear followed by DequantizeLinear with the same scale: nothing
- DequantizeLinear of a constant: the float32 weight
- Div(size) before and Mul(size) after such a product, which scale tokens for their rounding: nothing
- DynamicQuantizeLinear ─ MatMulInteger ─ Cast ─ Mul(scales): MatMul

Outputs are those of the stored weights without the rounding of activations; what calibration chose for these is lost,
which is what a graph needs that is calibrated anew for another provider.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.tensors import Array, Rows
from edgepress.onnx_graph.walk import attributes_of, operand


def _apply(model: onnx.ModelProto, context: Context) -> int:
    rules = {
        (CONTRIB, "DynamicQuantizeMatMul"): _dynamic,
        (CONTRIB, "MatMulIntegerToFloat"): _rounded_before,
        ("", "DequantizeLinear"): _dequantize,
        (CONTRIB, "DequantizeLinear"): _dequantize,
        ("", "Mul"): _integer_product,
    }
    changes = rewrite(model, context.weights, rules)
    return changes and changes + rewrite(model, context.weights, {("", "Mul"): _unscaled})


def _unscaled(editor: Editor, node: onnx.NodeProto) -> bool:
    """``Mul(MatMul(Div(x, size), W), size)``, which scales tokens for their rounding: ``MatMul(x, W)``."""
    product = editor.makers.get(node.input[0])
    if product is None or product.op_type != "MatMul":
        return False
    scaled = editor.makers.get(product.input[0])
    while scaled is not None and scaled.op_type == "Identity":
        scaled = editor.makers.get(scaled.input[0])
    if scaled is None or scaled.op_type != "Div" or scaled.input[1] != node.input[1]:
        return False
    size = editor.shape(node.input[1])
    if size is None or size[-1] != 1:  # one number for a whole row, which the product then only scales
        return False
    editor.emit("MatMul", [scaled.input[0], product.input[1]], node.output[0])
    return True


def _dynamic(editor: Editor, node: onnx.NodeProto) -> bool:
    """``MatMul(x, W) (+ bias)``, W (columns, rows) with a scale and zero point for each of its columns, or one."""
    x, weight, scale, zero_point, bias = (operand(node, index) for index in range(5))
    return _in_float(editor, x, (weight, scale, zero_point), bias, node.output[0])


def _rounded_before(editor: Editor, node: onnx.NodeProto) -> bool:
    """The same of an x that DynamicQuantizeLinear rounds for several products."""
    rounding = editor.makers.get(node.input[0])
    if rounding is None or rounding.op_type != "DynamicQuantizeLinear":
        return False
    weight, scale, zero_point, bias = (operand(node, index) for index in (1, 3, 5, 6))
    return _in_float(editor, rounding.input[0], (weight, scale, zero_point), bias, node.output[0])


def _in_float(editor: Editor, x: str, stored: tuple[str, str, str], bias: str, y: str) -> bool:
    weight, scale, zero_point = stored
    name = _weight(editor, weight, scale, zero_point, axis=1)
    if name is None:
        return False
    product = editor.emit("MatMul", [x, name], f"{y}/product" if bias else y)
    if bias:
        editor.emit("Add", [product, bias], y)
    return True


def _dequantize(editor: Editor, node: onnx.NodeProto) -> bool:
    attributes, y = attributes_of(node), node.output[0]
    if attributes.get("block_size", 0):
        return False
    maker = editor.makers.get(node.input[0])
    if maker is not None and maker.op_type == "QuantizeLinear":
        if maker.input[1:] != node.input[1:]:
            return False  # a change of scale is a computation
        editor.emit("Identity", [maker.input[0]], y)
        return True
    name = _weight(editor, node.input[0], operand(node, 1), operand(node, 2), axis=attributes.get("axis", 1))
    if name is None:
        return False
    editor.emit("Identity", [name], y)
    return True


def _integer_product(editor: Editor, node: onnx.NodeProto) -> bool:
    """``Mul(Cast(MatMulInteger(codes, W, …)), Mul(scale of x, scale of W))``, as dynamic quantization writes it."""
    cast = editor.makers.get(node.input[0])
    product = None if cast is None or cast.op_type != "Cast" else editor.makers.get(cast.input[0])
    scales = editor.makers.get(node.input[1])
    if product is None or product.op_type != "MatMulInteger" or scales is None or scales.op_type != "Mul":
        return False
    rounding = editor.makers.get(product.input[0])
    if rounding is None or rounding.op_type != "DynamicQuantizeLinear" or rounding.output[1] not in scales.input:
        return False
    scale = next((name for name in scales.input if name != rounding.output[1]), "")
    name = _weight(editor, product.input[1], scale, operand(product, 3), axis=1)
    if name is None:
        return False
    editor.emit("MatMul", [rounding.input[0], name], node.output[0])
    return True


def _weight(editor: Editor, codes: str, scale: str, zero_point: str, *, axis: int) -> str | None:
    """``(codes − zero point) · scale`` as a weight; None when one of them is no constant."""
    tensor, scale_tensor = editor.constants.get(codes), editor.constants.get(scale)
    zero_tensor = editor.constants.get(zero_point) if zero_point else None
    if tensor is None or scale_tensor is None or (zero_point and zero_tensor is None):
        return None
    stored = editor.weights.rows(tensor)
    scales = editor.weights.array(scale_tensor).astype(np.float32)
    zeros = None if zero_tensor is None else editor.weights.array(zero_tensor)
    axis = axis % max(1, len(stored.dims))

    def along(values: Array, start: int, stop: int) -> Array:
        """Values of each index along the axis, broadcast against rows ``start`` to ``stop``."""
        if values.size == 1:
            return values.reshape(1)
        shape = [-1 if index == axis else 1 for index in range(len(stored.dims))]
        return values.reshape(shape)[slice(start, stop) if axis == 0 else slice(None)]

    def read(start: int, stop: int) -> NDArray[np.float32]:
        steps = stored.read(start, stop)
        if zeros is not None:
            steps = steps.astype(np.int32) - along(zeros, start, stop).astype(np.int32)
        values: NDArray[np.float32] = steps.astype(np.float32) * along(scales, start, stop)
        return values

    return editor.weight(f"{codes}.dequantized", Rows(stored.dims, TensorProto.FLOAT, read))


PASS = Pass(
    name="drop-rounding",
    description="Integer products become MatMul with the same weights; activations are not rounded",
    operators=(
        f"{CONTRIB}.DynamicQuantizeMatMul",
        f"{CONTRIB}.MatMulIntegerToFloat",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QuantizeLinear",
        "DequantizeLinear",
    ),
    apply=_apply,
    makes=("Identity",),
)
