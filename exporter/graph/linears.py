"""How a projection is computed: one function for each form that a plan may give a weight.

Every form computes ``y = x Wᵀ + b`` from x (…, columns) and returns the name of y (…, rows).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgepress.bundle.adapter_slots import Slot
from edgepress.exporter.arrays import integer
from edgepress.exporter.graph.builder import CONTRIB, FLOAT, FLOAT16, Attribute, GraphBuilder
from edgepress.exporter.graph.editing import set_nodes
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Form, PlannedTensor, Region
from edgepress.onnx_graph.walk import graphs, operand

UINT8, UINT16, INT8, INT32 = TensorProto.UINT8, TensorProto.UINT16, TensorProto.INT8, TensorProto.INT32
_ROUNDED, _BACK = ".input.rounded", ".input"  # how values end that are activations in integers, and real again
_FC1_SCALES, _FC2_SCALES, _BYTE = 3, 6, 8  # inputs of QMoE; bits
_PLACES = {"DynamicQuantizeMatMul": (1, 2, 3, 4), "MatMulIntegerToFloat": (1, 3, 5, 6)}
"""Which inputs are the weight, its scales, its zero points and what is added."""
_LSTM_INPUTS = 8  # that an LSTM has; those of DynamicQuantizeLSTM after them are scales and zero points
_BIAS = 5  # the input of MatMulNBits that is added; two optional ones are between it and the zero points


class Nodes(Protocol):
    """A graph that nodes are added to: one that is built (:class:`GraphBuilder`), or one that is rewritten."""

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        **attributes: Attribute,
    ) -> str:
        """Add a node, and return its first output."""

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant; adding the same name again is a no-op."""

    def external(self, name: str, dtype: int, shape: Sequence[int], region: Region) -> str:
        """Add a constant whose bytes are a region of the data file; adding the same name again is a no-op."""


@dataclass(frozen=True)
class Projection:
    """One projection: its weight as the model has it, as planned, and the name of its bias or "".

    ``normed`` says that the rows of x are alike in size, as those that leave a norm are; ``axis`` is that of columns.
    ``lowest`` is what no number of x is below, where that is known of the node that makes it.
    """

    weight: Weight
    tensor: PlannedTensor
    bias: str
    accuracy_level: int
    normed: bool
    axis: int = 2
    lowest: float | None = None


def write_linear(g: Nodes, projection: Projection, x: str, output: str) -> str:
    """Write the nodes of ``projection`` in the form that the plan chose."""
    return _FORMS[projection.tensor.form](g, projection, x, output)


def write_slot(g: GraphBuilder, slot: Slot, x: str, product: str, output: str) -> str:
    """Add to ``product`` what an adapter changes of it; the result is called ``output``.

    ::

        x ─ MatMul(A) ─ MatMul(B) ─┬ Add ─ output
        product ───────────────────┘

    In float32 in every graph, so that one file of factors fits all of them. Without an adapter the rank is 0: the first
    product has no columns and the second one is a sum of nothing, and zeros change no number that they are added to.
    """
    rank = f"{slot.name}.rank"
    a = g.optional_input(slot.a, [slot.columns, rank], np.zeros((slot.columns, 0), np.float32))
    b = g.optional_input(slot.b, [rank, slot.rows], np.zeros((0, slot.rows), np.float32))
    with g.in_half(False):
        low = g.node("MatMul", [x, a], f"{slot.name}.low_rank")  # (batch, sequence, rank)
        return g.node("Add", [product, g.node("MatMul", [low, b], f"{slot.name}.adapted")], output)


def _add_bias(g: Nodes, p: Projection, product: str, output: str) -> str:
    return g.node("Add", [product, p.bias], output) if p.bias else product


def _product(p: Projection, output: str) -> str:
    """The name of the product before a bias is added."""
    return f"{output}.product" if p.bias else output


def _float(g: Nodes, p: Projection, x: str, output: str) -> str:
    """``FusedMatMul(x, Wᵀ)``: the weight is streamed as the checkpoint stores it."""
    stored = g.external(p.tensor.weight.name, FLOAT, p.weight.shape, p.tensor.regions["data"])
    product = g.node("FusedMatMul", [x, stored], _product(p, output), domain=CONTRIB, transB=1)
    return _add_bias(g, p, product, output)


def _half(g: Nodes, p: Projection, x: str, output: str) -> str:
    """As :func:`_float`, from a weight in float16.

    onnxruntime's CPU provider has no float16 product (nor Add, Mul, Gelu): the graph casts the weight to float32, which
    is done once, when the session is opened.
    """
    stored = g.external(p.tensor.weight.name, FLOAT16, p.weight.shape, p.tensor.regions["data"])
    product = g.node("FusedMatMul", [x, stored], _product(p, output), domain=CONTRIB, transB=1)
    return _add_bias(g, p, product, output)


def _blocks(g: Nodes, p: Projection, x: str, output: str) -> str:
    """``MatMulNBits(x, codes, scales, zero points)``, which adds the bias too.

    Where columns are in an order of their own, x is brought into it by a Gather::

        x ─┬ Gather ─ MatMulNBits ─
        order ┘
    """
    rows, columns = p.weight.shape
    name, scheme = p.tensor.weight.name, p.tensor.scheme
    if scheme is None:
        raise ValueError(f"{name} has no scheme")
    if p.weight.ordered:
        order = g.external(f"{name}.order", INT32, (columns,), p.tensor.regions["order"])
        x = g.node("Gather", [x, order], f"{output}.in_order", axis=p.axis)
    values = g.external(f"{name}.values", UINT8, scheme.values_shape(rows, columns), p.tensor.regions["values"])
    inputs = [x, values, *block_scales(g, p.tensor)]
    if p.bias:
        inputs += [""] * (_BIAS - len(inputs)) + [p.bias]
    return g.node(
        "MatMulNBits",
        inputs,
        output,
        domain=CONTRIB,
        N=rows,
        K=columns,
        bits=scheme.bits,
        block_size=scheme.block_size,
        accuracy_level=p.accuracy_level,
    )


def block_scales(g: Nodes, tensor: PlannedTensor) -> list[str]:
    """Inputs that turn block-wise codes into weights: scales and, unless symmetric, zero points.

    Scales are of the type that the product computes in.
    """
    name, scheme = tensor.weight.name, tensor.scheme
    if scheme is None:
        raise ValueError(f"{name} has no scheme")
    rows, columns = tensor.weight.shape
    kind = FLOAT16 if tensor.form == "half blocks" else FLOAT
    scales = g.external(f"{name}.scales", kind, scheme.scales_shape(rows, columns), tensor.regions["scales"])
    if scheme.symmetric:
        return [scales]
    shape = scheme.zero_points_shape(rows, columns)
    return [scales, g.external(f"{name}.zero_points", UINT8, shape, tensor.regions["zero_points"])]


def _dynamic(g: Nodes, p: Projection, x: str, output: str) -> str:
    """``DynamicQuantizeMatMul``: x becomes uint8 over the range that it has in this call.

    One node, because onnxruntime fuses DynamicQuantizeLinear, MatMulInteger, Cast and Mul into it anyway. All tokens of
    a call share the range, and what goes into ``down`` has tokens a hundred times larger than others (measured on
    tiny1m, 100 tokens in one call: KL 0.066 nats, one token a call 0.0014). There each token is first scaled to 1::

        x ─┬ Abs ─ ReduceMax ─ Max(tiny) ─┬───────────────────────────┐
           └──────────────────────── Div ─┴ DynamicQuantizeMatMul ─ Mul ─ (Add bias)

    which leaves 0.0024; the same before the other projections gains nothing.
    """
    weight = _integer_weight(g, p)
    if p.normed:
        return g.node("DynamicQuantizeMatMul", [x, *weight, *([p.bias] if p.bias else [])], output, domain=CONTRIB)
    scaled, size = _by_token(g, p, x, output)
    rounded = g.node("DynamicQuantizeMatMul", [scaled, *weight], f"{output}.rounded_product", domain=CONTRIB)
    return _add_bias(g, p, g.node("Mul", [rounded, size], _product(p, output)), output)


def _static(g: Nodes, p: Projection, x: str, output: str) -> str:
    """Quantized and dequantized again (QDQ), as compilers of accelerators take it; tokens are scaled as above::

        x ─ QuantizeLinear ─ DequantizeLinear ─┬ MatMul ─ (Add bias)
        codes ────────────── DequantizeLinear ─┘

    onnxruntime fuses this into MatMulIntegerToFloat when activations have 8 bits; with 16 its CPU has no such kernel
    and dequantizes the whole weight at each call.
    """
    name, regions = p.tensor.weight.name, p.tensor.regions
    x, size = (x, "") if p.normed else _by_token(g, p, x, output)
    scale = g.external(f"{name}.input_scale", FLOAT, (), regions["input_scale"])
    kind = UINT8 if p.tensor.form == "uint8" else UINT16
    zero_point = g.external(f"{name}.input_zero_point", kind, (), regions["input_zero_point"])
    rounded = g.node("QuantizeLinear", [x, scale, zero_point], f"{output}{_ROUNDED}")
    back = g.node("DequantizeLinear", [rounded, scale, zero_point], f"{output}{_BACK}")
    weight = g.node("DequantizeLinear", _integer_weight(g, p), f"{output}.weight", axis=1)
    if not size:
        return _add_bias(g, p, g.node("MatMul", [back, weight], _product(p, output)), output)
    product = g.node("MatMul", [back, weight], f"{output}.scaled_product")
    return _add_bias(g, p, g.node("Mul", [product, size], _product(p, output)), output)


def _by_token(g: Nodes, p: Projection, x: str, output: str) -> tuple[str, str]:
    """Each token of x divided by its largest magnitude, and these, (batch, sequence, 1).

    What is not below ``lowest`` has a magnitude of its largest number, or of at most that: no Abs is needed.
    """
    magnitudes = g.node("Abs", [x], f"{output}.magnitudes") if p.lowest is None else x
    # Not -1: onnxruntime merges equal constants, and overriding logits_start, which is -1, would override the axis.
    axis = g.constant(f"slice_{p.axis}", np.array([p.axis], np.int64))
    largest = g.node("ReduceMax", [magnitudes, axis], f"{output}.largest")
    tiny = float(np.finfo(np.float32).tiny)  # a token of zeros stays zeros
    bound = max(tiny, -(p.lowest or 0.0))
    least = g.constant("tiny" if bound == tiny else f"at_least_{bound}", np.array(bound, np.float32))
    size = g.node("Max", [largest, least], f"{output}.size")
    return g.node("Div", [x, size], f"{output}.scaled"), size


def _integer_weight(g: Nodes, p: Projection) -> list[str]:
    """The weight, uint8 or int8 (columns, rows), its scales, float32 (rows,), and zero points of uint8, (rows,)."""
    (rows, columns), name, regions = p.weight.shape, p.tensor.weight.name, p.tensor.regions
    is_signed = p.tensor.form == "dynamic pairs"
    weight = g.external(f"{name}.values", INT8 if is_signed else UINT8, (columns, rows), regions["values"])
    scales = g.external(f"{name}.scales", FLOAT, (rows,), regions["scales"])
    if is_signed:
        return [weight, scales, ""]
    return [weight, scales, g.constant(f"zero_points_{rows}", np.full(rows, integer.ZERO_POINT, np.uint8))]


def compute_in_float(model: onnx.ModelProto, accuracy_level: int) -> None:
    """Leave the weights of ``model``'s products as they are stored, but round none of the products' inputs.

    MatMulNBits gets ``accuracy_level``; DynamicQuantizeMatMul and MatMulIntegerToFloat become DequantizeLinear and
    MatMul, DynamicQuantizeLSTM an LSTM of floats that are made of the codes; what would quantize activations, and
    dequantize them again, passes them on.
    """
    for graph in reversed(list(graphs(model.graph))):  # inner ones first, as nodes are copied with them
        set_nodes(graph, [line for node in graph.node for line in _in_float(node, accuracy_level)])


def _in_float(node: onnx.NodeProto, accuracy_level: int) -> list[onnx.NodeProto]:
    for attribute in node.attribute:
        if attribute.name == "accuracy_level":
            attribute.i = accuracy_level
    if node.output[0].endswith((_ROUNDED, _BACK)) or node.op_type == "DynamicQuantizeLinear":
        return [helper.make_node("Identity", node.input[:1], node.output[:1])]
    if node.op_type == "QMoE":
        return _experts_in_float(node)
    if node.op_type == "DynamicQuantizeLSTM":
        return _steps_in_float(node)
    places = _PLACES.get(node.op_type)
    if places is None:
        return [node]
    x, y = node.input[0], node.output[0]
    weight, bias = [[name for place in part if (name := operand(node, place))] for part in (places[:3], places[3:])]
    lines = [
        helper.make_node("DequantizeLinear", weight, [f"{y}.weight"], axis=1),
        helper.make_node("MatMul", [x, f"{y}.weight"], [f"{y}.float" if bias else y]),
    ]
    return [*lines, helper.make_node("Add", [f"{y}.float", *bias], [y])] if bias else lines


def _steps_in_float(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """An LSTM; weights are (directions, columns, rows) with a scale and a zero point for each row of each direction::

    codes ─ Cast ─ Sub(Cast(zero points)) ─ Mul(scales) ─ Transpose ─ LSTM
    """
    lines, at, inputs = list[onnx.NodeProto](), node.name or node.output[0], list(node.input[:_LSTM_INPUTS])
    axis = f"{at}.axis"
    lines.append(helper.make_node("Constant", [], [axis], value_ints=[1]))
    for place, (scale, zero) in zip((1, 2), ((8, 9), (10, 11)), strict=True):
        names = {
            key: f"{at}.{place}.{key}" for key in ("zero", "codes", "scale", "row_zero", "steps", "turned", "whole")
        }
        lines += [
            helper.make_node("Cast", [node.input[zero]], [names["zero"]], to=FLOAT),
            helper.make_node("Cast", [node.input[place]], [names["codes"]], to=FLOAT),
            helper.make_node("Unsqueeze", [node.input[scale], axis], [names["scale"]]),
            helper.make_node("Unsqueeze", [names["zero"], axis], [names["row_zero"]]),
            helper.make_node("Sub", [names["codes"], names["row_zero"]], [names["steps"]]),
            helper.make_node("Mul", [names["steps"], names["scale"]], [names["turned"]]),
            helper.make_node("Transpose", [names["turned"]], [names["whole"]], perm=[0, 2, 1]),
        ]
        inputs[place] = names["whole"]
    plain = helper.make_node("LSTM", inputs, list(node.output))
    plain.attribute.extend(node.attribute)
    return [*lines, plain]


def _experts_in_float(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Scales of 8-bit experts are sums made when the graph runs: QMoE then dequantizes, having nothing to pack.

    With constant scales it rounds activations to 8 bits at every accuracy level.
    """
    lines: list[onnx.NodeProto] = []
    bits = next(attribute.i for attribute in node.attribute if attribute.name == "expert_weight_bits")
    for place in (_FC1_SCALES, _FC2_SCALES) if bits == _BYTE else ():
        zero, made = f"{node.name}.zero.{place}", f"{node.name}.scales.{place}"
        lines += [
            helper.make_node("ReduceMin", [node.input[0]], [f"{zero}.least"], keepdims=0),
            helper.make_node("Sub", [f"{zero}.least", f"{zero}.least"], [zero]),
            helper.make_node("Add", [node.input[place], zero], [made]),
        ]
        node.input[place] = made
    return [*lines, node]


_FORMS: dict[Form, Callable[[Nodes, Projection, str, str], str]] = {
    "float": _float,
    "half": _half,
    "blocks": _blocks,
    "half blocks": _blocks,
    "dynamic": _dynamic,
    "dynamic pairs": _dynamic,
    "uint8": _static,
    "uint16": _static,
}
