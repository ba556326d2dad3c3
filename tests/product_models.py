"""Models of one integer product each, whose sums of two products do not fit into 16 bits, and what they must compute.

Expected values are sums of Python's own integers. ``saturates`` is what a plain onnxruntime session does with the model
on x86-64 with AVX2 and no VNNI, ``repaired`` whether its option for exact products helps, and ``fails`` whether a model
that is opened with it cannot be run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS, DEPTH, COLUMNS = 3, 64, 48
SCALE = np.float32(0.01)
Nodes = Sequence[tuple[str, Sequence[str], str, dict[str, object]]]
Arrays = dict[str, np.ndarray]
_MICROSOFT = {
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QAttention", "MatMulNBits", "DynamicQuantizeLSTM"
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, what goes into it, and what has to come out, but for ``tolerance``."""

    model: bytes
    feed: Arrays
    expected: np.ndarray
    tolerance: float
    saturates: bool = True
    repaired: bool = True
    fails: bool = False


def large(kind: type[np.generic], shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Codes near the largest of their type: two products of such sum up to more than 32767."""
    top = np.iinfo(kind).max
    return np.random.default_rng(seed).integers(top - 30, top + 1, shape).astype(kind)


def zero_of(kind: type[np.generic]) -> np.ndarray:
    return np.array(128 if kind is np.uint8 else 0, kind)


def whole(codes: np.ndarray) -> np.ndarray:
    """Codes less their zero point, as integers that do not overflow."""
    return codes.astype(np.int64) - int(zero_of(codes.dtype.type))


def model_of(nodes: Nodes, feed: Arrays, constants: Mapping[str, np.ndarray], kind: int, opset: int = 21) -> bytes:
    """Nodes from ``feed`` to ``y``, of TensorProto type ``kind``."""
    made = [
        helper.make_node(op, ins, [out], domain="com.microsoft" if op in _MICROSOFT else "", **attributes)
        for op, ins, out, attributes in nodes
    ]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feed.items()
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(made, "product", values, [helper.make_tensor_value_info("y", kind, None)], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def integers(kinds: tuple[type[np.generic], type[np.generic]], *, constant: bool) -> Case:
    """MatMulInteger."""
    x, w = large(kinds[0], (ROWS, DEPTH), 1), large(kinds[1], (DEPTH, COLUMNS), 2)
    feed, constants = ({"x": x}, {"w": w}) if constant else ({"x": x, "w": w}, {})
    constants |= {"xz": zero_of(kinds[0]), "wz": zero_of(kinds[1])}
    model = model_of([("MatMulInteger", ["x", "w", "xz", "wz"], "y", {})], feed, constants, TensorProto.INT32)
    mixed = kinds == (np.uint8, np.int8)
    return Case(model, feed, (whole(x) @ whole(w)).astype(np.int32), 0, mixed, constant)


def in_pairs(rows: int = ROWS) -> Case:
    """MatMulInteger with the largest weights of which rows 2j and 2j + 1 add up to 128, and the largest x."""
    first = np.array([127, 64, -127, 100, -64, 1, -90, 125], np.int16)[np.arange(COLUMNS) % 8]  # (columns,)
    w = np.stack([first, np.sign(first) * 128 - first], 0)[np.arange(DEPTH) % 2].astype(np.int8)  # (depth, columns)
    x = np.full((rows, DEPTH), 255, np.uint8)
    constants = {"w": w, "xz": np.array(0, np.uint8), "wz": zero_of(np.int8)}
    model = model_of([("MatMulInteger", ["x", "w", "xz", "wz"], "y", {})], {"x": x}, constants, TensorProto.INT32)
    return Case(model, {"x": x}, (x.astype(np.int64) @ w.astype(np.int64)).astype(np.int32), 0, False)


def to_float(op: str, inputs: Sequence[str], *, constant: bool = True) -> Case:
    """Operators that give float32: MatMulIntegerToFloat and QGemm."""
    x, w = large(np.uint8, (ROWS, DEPTH), 3), large(np.int8, (DEPTH, COLUMNS), 4)
    feed, constants = ({"x": x}, {"w": w}) if constant else ({"x": x, "w": w}, {})
    constants |= {"xz": zero_of(np.uint8), "wz": zero_of(np.int8), "s": SCALE}
    model = model_of([(op, inputs, "y", {})], feed, constants, TensorProto.FLOAT)
    expected = (whole(x) @ whole(w)) * float(SCALE) ** 2
    return Case(model, feed, expected.astype(np.float32), 1e-6 * float(expected.max()), True, constant)


def dynamic() -> Case:
    """DynamicQuantizeMatMul: x is rounded by the operator, to within half a step."""
    x = np.random.default_rng(5).uniform(0.9, 1, (ROWS, DEPTH)).astype(np.float32)
    w = large(np.int8, (DEPTH, COLUMNS), 6)
    constants = {"w": w, "s": SCALE, "wz": zero_of(np.int8)}
    model = model_of(
        [("DynamicQuantizeMatMul", ["x", "w", "s", "wz"], "y", {})], {"x": x}, constants, TensorProto.FLOAT
    )
    expected = x.astype(np.float64) @ (w * float(SCALE))
    return Case(model, {"x": x}, expected.astype(np.float32), DEPTH * 127 * float(SCALE) / 255)


def rounded(total: np.ndarray, kind: type[np.generic]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes of a product of codes, and the constants that say how they are rounded."""
    scale = np.float32(total.max() * float(SCALE) ** 2 / 100)
    codes = np.clip(np.rint(total * float(SCALE) ** 2 / float(scale)) + int(zero_of(kind)), *_limits(kind))
    return codes, {"s": SCALE, "ys": scale, "yz": zero_of(kind)}


def _limits(kind: type[np.generic]) -> tuple[int, int]:
    return np.iinfo(kind).min, np.iinfo(kind).max


def q_linear_matmul(opset: int) -> Case:
    """QLinearMatMul; onnxruntime's option knows it up to opset 20."""
    x, w = large(np.uint8, (ROWS, DEPTH), 7), large(np.int8, (DEPTH, COLUMNS), 8)
    codes, constants = rounded(whole(x) @ whole(w), np.uint8)
    constants |= {"w": w, "xz": zero_of(np.uint8), "wz": zero_of(np.int8)}
    nodes: Nodes = [("QLinearMatMul", ["x", "s", "xz", "w", "s", "wz", "ys", "yz"], "y", {})]
    model = model_of(nodes, {"x": x}, constants, TensorProto.UINT8, opset)
    return Case(model, {"x": x}, codes, 1, True, opset < 21)


def q_linear_conv() -> Case:
    """QLinearConv of one pixel: a product of channels."""
    x, w = large(np.uint8, (1, DEPTH, 2, 2), 9), large(np.int8, (COLUMNS, DEPTH, 1, 1), 10)
    codes, constants = rounded(np.einsum("ncij,oc->noij", whole(x), whole(w[:, :, 0, 0])), np.uint8)
    constants |= {"w": w, "xz": zero_of(np.uint8), "wz": zero_of(np.int8)}
    nodes: Nodes = [("QLinearConv", ["x", "s", "xz", "w", "s", "wz", "ys", "yz"], "y", {})]
    return Case(model_of(nodes, {"x": x}, constants, TensorProto.UINT8), {"x": x}, codes, 1)


def conv_integer() -> Case:
    """ConvInteger: its kernel multiplies the weights by x, int8 by uint8, which has no 16-bit sums."""
    x, w = large(np.uint8, (1, DEPTH, 2, 2), 11), large(np.int8, (COLUMNS, DEPTH, 1, 1), 12)
    expected = np.einsum("ncij,oc->noij", whole(x), whole(w[:, :, 0, 0]))
    nodes: Nodes = [("ConvInteger", ["x", "w", "xz", "wz"], "y", {})]
    constants = {"w": w, "xz": zero_of(np.uint8), "wz": zero_of(np.int8)}
    return Case(model_of(nodes, {"x": x}, constants, TensorProto.INT32), {"x": x}, expected, 0, saturates=False)


def qdq(
    op: str,
    kind: type[np.generic],
    weight: np.ndarray,
    *,
    readers: int = 1,
    groups: int = 1,
    saturates: bool = True,
    zero_points: bool = True,
) -> Case:
    """x ─► Q ─► DQ ─► MatMul, Gemm or Conv ─► Q ─► DQ, the weight from int8; ``readers`` such side by side, added.

    Without ``zero_points`` the weight has none, and a scale for each output channel.
    """
    shape = (1, weight.shape[1] * groups, 2, 2) if op == "Conv" else (ROWS, DEPTH)
    x = large(kind, shape, 13)
    if op == "MatMul":
        total = whole(x) @ whole(weight)
    elif op == "Gemm":
        total = whole(x) @ whole(weight).T
    else:
        per_group = np.split(whole(x), groups, 1), np.split(whole(weight[:, :, 0, 0]), groups)
        total = np.concatenate([np.einsum("ncij,oc->noij", a, b) for a, b in zip(*per_group, strict=True)], 1)
    codes, constants = rounded(total, kind)
    constants |= {"w": weight, "wz": zero_of(np.int8), "xz": zero_of(kind)}
    nodes = [
        ("QuantizeLinear", ["x", "s", "xz"], "xq", {}),
        ("DequantizeLinear", ["xq", "s", "xz"], "xf", {}),
        ("DequantizeLinear", ["w", "s", "wz"], "wf", {}),
    ]
    if not zero_points:
        nodes[-1] = ("DequantizeLinear", ["w", "ws"], "wf", {"axis": 0})
        constants["ws"] = np.full(len(weight), SCALE)
    attributes: dict[str, object] = {"MatMul": {}, "Gemm": {"transB": 1}, "Conv": {"group": groups}}[op]
    for index in range(readers):
        nodes += [
            (op, ["xf", "wf"], f"m{index}", attributes),
            ("QuantizeLinear", [f"m{index}", "ys", "yz"], f"q{index}", {}),
            ("DequantizeLinear", [f"q{index}", "ys", "yz"], f"y{index}", {}),
        ]
    nodes.append(("Sum", [f"y{index}" for index in range(readers)], "y", {}))
    step = float(constants["ys"])
    feed = {"x": (whole(x) * float(SCALE)).astype(np.float32)}
    expected = readers * (codes - int(zero_of(kind))) * step
    model = model_of(nodes, feed, constants, TensorProto.FLOAT)
    fails = not zero_points and op != "Conv"
    return Case(model, feed, expected.astype(np.float32), 1.01 * readers * step, saturates, fails=fails)


def in_bits(bits: int) -> Case:
    """MatMulNBits at accuracy level 4: x is rounded to int8, weights stay unsigned, and kernels see to the sums."""
    block, depth = 32, 256
    codes = np.random.default_rng(14).integers(2**bits - 2, 2**bits, (COLUMNS, depth)).astype(np.uint8)
    packed = codes if bits == 8 else codes[:, ::2] | codes[:, 1::2] << 4
    x = np.random.default_rng(15).uniform(0.9, 1, (ROWS, depth)).astype(np.float32)
    scales = np.full((COLUMNS, depth // block), SCALE)
    constants = {"w": packed.reshape(COLUMNS, depth // block, block * bits // 8), "s": scales}
    attributes = {"K": depth, "N": COLUMNS, "bits": bits, "block_size": block, "accuracy_level": 4}
    model = model_of([("MatMulNBits", ["x", "w", "s"], "y", attributes)], {"x": x}, constants, TensorProto.FLOAT)
    expected = x.astype(np.float64) @ ((codes.astype(np.int64) - 2 ** (bits - 1)) * float(SCALE)).T
    return Case(model, {"x": x}, expected.astype(np.float32), 0.015 * float(expected.max()), saturates=False)


def attention() -> Case:
    """QAttention of one head: q, k and v are products; with equal values of v the answer is v."""
    x, w = large(np.uint8, (1, ROWS, DEPTH), 16), large(np.int8, (DEPTH, 3 * DEPTH), 17)
    x[:] = x[:, :1]  # equal tokens: whatever the weights of attention are, it answers with the one value
    constants = {
        "w": w, "b": np.zeros(3 * DEPTH, np.float32), "s": np.float32(1e-3), "xz": zero_of(np.uint8),
        "wz": zero_of(np.int8),
    }  # fmt: skip
    nodes: Nodes = [("QAttention", ["x", "w", "b", "s", "s", "", "xz", "wz"], "y", {"num_heads": 1})]
    expected = (whole(x) @ whole(w[:, 2 * DEPTH :])) * 1e-6
    model = model_of(nodes, {"x": x}, constants, TensorProto.FLOAT)
    return Case(model, {"x": x}, expected.astype(np.float32), 1e-3 * float(expected.max()))


def read_again(case: Case) -> Case:
    """The same with the dequantized weight read by another node."""
    model = onnx.load_from_string(case.model)
    model.graph.node.append(helper.make_node("Relu", ["wf"], ["positive"]))
    model.graph.output.append(helper.make_tensor_value_info("positive", TensorProto.FLOAT, None))
    return replace(case, model=model.SerializeToString())


def twice(case: Case) -> Case:
    """The same with another node that reads the same, weight and zero point."""
    model = onnx.load_from_string(case.model)
    again = onnx.NodeProto()
    again.CopyFrom(model.graph.node[0])
    again.output[0] = "again"
    model.graph.node.append(again)
    kind = model.graph.output[0].type.tensor_type.elem_type
    model.graph.output.append(helper.make_tensor_value_info("again", kind, None))
    return replace(case, model=model.SerializeToString(), repaired=False)


def _int8(*shape: int) -> np.ndarray:
    return large(np.int8, shape, 18)


_FLOAT_INPUTS = {
    "MatMulIntegerToFloat": ["x", "w", "s", "s", "xz", "wz"],
    "QGemm": ["x", "s", "xz", "w", "s", "wz"],
}
CASES: Mapping[str, Callable[[], Case]] = {
    "MatMulInteger": lambda: integers((np.uint8, np.int8), constant=True),
    "MatMulInteger of uint8": lambda: integers((np.uint8, np.uint8), constant=True),
    "MatMulInteger of int8": lambda: integers((np.int8, np.int8), constant=True),
    "MatMulInteger, pairs that fit": in_pairs,
    "MatMulInteger, pairs that fit and one row": lambda: in_pairs(1),
    "MatMulInteger, int8 computed": lambda: integers((np.uint8, np.int8), constant=False),
    **{op: lambda op=op, ins=ins: to_float(op, ins) for op, ins in _FLOAT_INPUTS.items()},
    "MatMulInteger, twice": lambda: twice(integers((np.uint8, np.int8), constant=True)),
    "QGemm, int8 computed": lambda: to_float("QGemm", _FLOAT_INPUTS["QGemm"], constant=False),
    "DynamicQuantizeMatMul": dynamic,
    "QLinearMatMul": lambda: q_linear_matmul(19),
    "QLinearMatMul of opset 21": lambda: q_linear_matmul(21),
    "QLinearConv": q_linear_conv,
    "ConvInteger": conv_integer,
    "QAttention": attention,
    "MatMul in QDQ": lambda: qdq("MatMul", np.uint8, _int8(DEPTH, COLUMNS)),
    "MatMul in QDQ of int8": lambda: qdq("MatMul", np.int8, _int8(DEPTH, COLUMNS)),
    "MatMul in QDQ, 7-bit weights": lambda: qdq("MatMul", np.uint8, _int8(DEPTH, COLUMNS) // 2, saturates=False),
    "MatMul in QDQ, a shared weight": lambda: qdq("MatMul", np.uint8, _int8(DEPTH, COLUMNS), readers=2),
    "MatMul in QDQ, also read by another": lambda: read_again(qdq("MatMul", np.uint8, _int8(DEPTH, COLUMNS))),
    "Gemm in QDQ": lambda: qdq("Gemm", np.uint8, _int8(COLUMNS, DEPTH)),
    "Gemm in QDQ, no zero points": lambda: qdq(
        "Gemm", np.uint8, _int8(COLUMNS, DEPTH), zero_points=False, saturates=False
    ),
    "Conv in QDQ, no zero points": lambda: qdq("Conv", np.uint8, _int8(COLUMNS, DEPTH, 1, 1), zero_points=False),
    "Conv in QDQ": lambda: qdq("Conv", np.uint8, _int8(COLUMNS, DEPTH, 1, 1)),
    "Conv in QDQ of int8": lambda: qdq("Conv", np.int8, _int8(COLUMNS, DEPTH, 1, 1)),
    "Conv in QDQ, groups": lambda: qdq("Conv", np.uint8, _int8(32, 8, 1, 1), groups=4),
    "Conv in QDQ, depthwise": lambda: qdq("Conv", np.uint8, _int8(32, 1, 1, 1), groups=32, saturates=False),
    "MatMulNBits of 4 bits": lambda: in_bits(4),
    "MatMulNBits of 8 bits": lambda: in_bits(8),
}
