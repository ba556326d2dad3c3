"""Erf → a polynomial times Exp, within 1.5e-7, for providers that have no error function.

Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", formula 7.1.26, for x ≥ 0::

    erf(x) = 1 − (a₁t + a₂t² + a₃t³ + a₄t⁴ + a₅t⁵) · exp(−x²),    t = 1 / (1 + 0.3275911 x)

erf is odd: the formula takes |x|, and the sign is x · 10²⁰ cut to [−1, 1].
"""

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import opset

_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_LIMITS_AS_INPUTS = 12  # the opset from which Clip takes any type and its limits as inputs


def _apply(model: onnx.ModelProto, context: Context) -> int:
    if opset(model) < _LIMITS_AS_INPUTS:
        return 0
    return rewrite(model, context.weights, {("", "Erf"): _polynomial})


def _polynomial(editor: Editor, node: onnx.NodeProto) -> bool:
    x, y = node.input[0], node.output[0]
    if editor.type(x) not in (None, TensorProto.FLOAT):
        return False

    def number(value: float) -> str:
        return editor.constant(f"number_{value:.9g}", np.array(value, np.float32))

    size = editor.emit("Abs", [x], f"{y}/size")
    below = editor.emit("Add", [editor.emit("Mul", [size, number(_P)], f"{y}/share"), number(1)], f"{y}/below")
    t = editor.emit("Div", [number(1), below], f"{y}/t")
    total = number(_A[-1])
    for power, factor in reversed([*enumerate(_A[:-1], 1)]):  # Horner's scheme
        product = editor.emit("Mul", [total, t], f"{y}/product.{power}")
        total = editor.emit("Add", [product, number(factor)], f"{y}/sum.{power}")
    polynomial = editor.emit("Mul", [total, t], f"{y}/polynomial")
    square = editor.emit("Mul", [x, editor.emit("Mul", [x, number(-1)], f"{y}/turned")], f"{y}/square")
    tail = editor.emit("Mul", [polynomial, editor.emit("Exp", [square], f"{y}/exp")], f"{y}/tail")
    positive = editor.emit("Sub", [number(1), tail], f"{y}/positive")
    steep = editor.emit("Mul", [x, number(1e20)], f"{y}/steep")
    sign = editor.emit("Clip", [steep, number(-1), number(1)], f"{y}/sign")
    editor.emit("Mul", [sign, positive], y)
    return True


PASS = Pass(
    name="plain-erf",
    description="Erf becomes a polynomial and Exp, within 1.5e-7",
    operators=("Erf",),
    apply=_apply,
)
