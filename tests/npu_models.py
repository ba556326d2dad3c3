"""Small ONNX models for NPU compilers, made with onnx.helper and nothing of edgepress."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

KINDS = {
    "int4": (TensorProto.INT4, -8, 7),
    "uint4": (TensorProto.UINT4, 0, 15),
    "int8": (TensorProto.INT8, -128, 127),
    "uint8": (TensorProto.UINT8, 0, 255),
    "int16": (TensorProto.INT16, -32768, 32767),
    "uint16": (TensorProto.UINT16, 0, 65535),
}


class Graph:
    """Nodes and initializers as they come; ``model`` makes them a ModelProto."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def codes(self, name: str, values: np.ndarray, kind: str) -> str:
        values = np.asarray(values)
        self.initializers.append(helper.make_tensor(name, KINDS[kind][0], values.shape, values.ravel().tolist()))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=attributes.pop("name", output), **attributes))
        return output

    def through_qdq(self, name: str, low: float, high: float, kind: str) -> str:
        """``name`` rounded to ``kind`` over [low, high] and back."""
        _, smallest, largest = KINDS[kind]
        scale = (high - low) / (largest - smallest)
        zero = int(np.clip(round(smallest - low / scale), smallest, largest))
        scale_name = self.constant(f"{name}.scale", np.array(scale, np.float32))
        zero_name = self.codes(f"{name}.zero", np.array(zero), kind)
        codes = self.node("QuantizeLinear", [name, scale_name, zero_name], f"{name}.codes")
        return self.node("DequantizeLinear", [codes, scale_name, zero_name], f"{name}.values")

    def weight(
        self, name: str, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, kind: str, **attributes: int
    ) -> str:
        inputs = [
            self.codes(f"{name}.codes", codes, kind),
            self.constant(f"{name}.scale", np.asarray(scale, np.float32)),
            self.codes(f"{name}.zero", zero, kind),
        ]
        return self.node("DequantizeLinear", inputs, name, **attributes)

    def model(
        self, inputs: dict[str, Sequence[int | str]], outputs: dict[str, Sequence[int | str] | None], opset: int = 23
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def projection(
    activations: str = "uint16",
    weights: str = "int8",
    zero: int = 0,
    *,
    layout: str = "tensor",
    negative: bool = False,
) -> onnx.ModelProto:
    """x (1, 16, 64) @ w (64, 32) with everything between QuantizeLinear and DequantizeLinear.

    ``layout`` is what shares a scale: the tensor, a channel (column), or a block of 32 rows of a column. With
    ``negative`` every second scale is below 0.
    """
    random = np.random.default_rng(0)
    graph = Graph()
    _, smallest, largest = KINDS[weights]
    codes = random.integers(smallest, largest + 1, (64, 32))
    span = (largest - smallest) / 2
    shape, attributes = {
        "tensor": ((), {}),
        "channel": ((32,), {"axis": 1}),
        "block": ((2, 32), {"axis": 0, "block_size": 32}),
    }[layout]
    scale = np.asarray(random.uniform(0.5, 1, shape) / span)
    if negative:
        scale = scale * np.where(np.arange(scale.size) % 2, 1, -1).reshape(shape)
    w = graph.weight("w", codes, scale, np.full(shape, zero), weights, **attributes)
    x = graph.through_qdq("x", -4, 4, activations)
    product = graph.node("MatMul", [x, w], "product", name="matmul")
    graph.node("Identity", [graph.through_qdq(product, -80, 80, activations)], "y")
    return graph.model({"x": (1, 16, 64)}, {"y": (1, 16, 32)})


def wide_projection(rows: int) -> onnx.ModelProto:
    """x (1, rows, 512) @ w (512, 512) in 16-bit activations and 8-bit weights, the same for any ``rows``."""
    graph = Graph()
    codes = np.random.default_rng(0).integers(-128, 128, (512, 512))
    w = graph.weight("w", codes, np.array(1 / 128), np.array(0), "int8")
    product = graph.node("MatMul", [graph.through_qdq("x", -4, 4, "uint16"), w], "product")
    graph.node("Identity", [graph.through_qdq(product, -80, 80, "uint16")], "y")
    return graph.model({"x": (1, rows, 512)}, {"y": (1, rows, 512)})


def product(first: str, second: str) -> onnx.ModelProto:
    """a (1, 2, 64, 64) @ b (1, 2, 64, 96), both activations, in codes of these types."""
    graph = Graph()
    factors = [graph.through_qdq("a", -4, 4, first), graph.through_qdq("b", -4, 4, second)]
    y = graph.through_qdq(graph.node("MatMul", factors, "product"), -60, 60, "uint16")
    graph.node("Identity", [y], "y")
    return graph.model({"a": (1, 2, 64, 64), "b": (1, 2, 64, 96)}, {"y": (1, 2, 64, 96)})


def norm(op: str, activations: str, gain: str) -> onnx.ModelProto:
    """RMSNormalization or LayerNormalization of x (1, 16, 64) with its gain in the type ``gain``, zero point 0."""
    random = np.random.default_rng(0)
    graph = Graph()
    _, smallest, largest = KINDS[gain]
    codes = random.integers(smallest // 2, largest, 64)
    g = graph.weight("gain", codes, np.array(1.5 / (largest - smallest)), np.array(0), gain)
    y = graph.node(op, [graph.through_qdq("x", -4, 4, activations), g], "normed", axis=-1, epsilon=1e-5, name="norm")
    graph.node("Identity", [graph.through_qdq(y, -8, 8, activations)], "y")
    return graph.model({"x": (1, 16, 64)}, {"y": (1, 16, 64)})


def rms_norm(shape: Sequence[int], activations: str = "") -> onnx.ModelProto:
    """RMSNormalization over the last axis of x in ``shape``, in floats or with activations and a gain in integers."""
    random = np.random.default_rng(0)
    graph = Graph()
    settings = {"axis": -1, "epsilon": 1e-5, "name": "norm"}
    if not activations:
        gain = graph.constant("gain", np.float32(random.uniform(0.5, 1.5, shape[-1])))
        graph.node("RMSNormalization", ["x", gain], "y", **settings)
        return graph.model({"x": shape}, {"y": shape})
    gain = graph.weight("gain", random.integers(64, 256, shape[-1]), np.array(1.5 / 255), np.array(0), "uint8")
    normed = graph.node("RMSNormalization", [graph.through_qdq("x", -4, 4, activations), gain], "normed", **settings)
    graph.node("Identity", [graph.through_qdq(normed, -8, 8, activations)], "y")
    return graph.model({"x": shape}, {"y": shape})


def lookup(table: str, activations: str, *, channels: bool) -> onnx.ModelProto:
    """Rows x (1, 4), integers, of a table (48, 64) in the type ``table``, with one scale or one for each column."""
    graph = Graph()
    random = np.random.default_rng(0)
    _, smallest, largest = KINDS[table]
    size, attributes = ((64,), {"axis": 1}) if channels else ((), {})
    codes = random.integers(smallest, largest + 1, (48, 64))
    values = graph.weight("table", codes, random.uniform(0.5, 1, size) / largest, np.full(size, 0), table, **attributes)
    rows = graph.node("Gather", [values, "x"], "rows", axis=0, name="gather")
    graph.node("Identity", [graph.through_qdq(rows, -2, 2, activations)], "y")
    model = graph.model({"x": (1, 4)}, {"y": (1, 4, 64)})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def broadcast_rows(
    rows: int, heads: Sequence[int], activations: str, *, rows_first: bool = False, columns: int = 32
) -> onnx.ModelProto:
    """Rows x (1, rows), integers, of a table (300, columns), times an input for each of ``heads``: a0, a1 and so on.

    The rows are read as (1, 1, rows, columns) by (1, heads, rows, columns), or with ``rows_first`` as (1, rows, 1,
    columns) by (1, rows, heads, columns). ``activations`` is the type of codes, ``""`` for floats.
    """
    graph = Graph()
    random = np.random.default_rng(0)

    def rounded(name: str, low: float, high: float) -> str:
        return graph.through_qdq(name, low, high, activations) if activations else name

    table = rounded(graph.constant("table", random.uniform(-1, 1, (300, columns)).astype(np.float32)), -1, 1)
    found = rounded(graph.node("Gather", [table, "x"], "rows", axis=0, name="gather"), -1, 1)
    axis = graph.constant("axis", np.array([2 if rows_first else 1]))
    apart = rounded(graph.node("Unsqueeze", [found, axis], "apart"), -1, 1)
    inputs: dict[str, Sequence[int | str]] = {"x": (1, rows)}
    outputs: dict[str, Sequence[int | str] | None] = {}
    for number, count in enumerate(heads):
        shape = (1, rows, count, columns) if rows_first else (1, count, rows, columns)
        inputs[f"a{number}"] = shape
        product = graph.node("Mul", [rounded(f"a{number}", -4, 4), apart], f"product{number}")
        outputs[graph.node("Identity", [rounded(product, -4, 4)], f"y{number}")] = shape
    model = graph.model(inputs, outputs)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    return model


def float_layer() -> onnx.ModelProto:
    """The operators of a decoder's layer that decide whether an HTP computes floats: norm, products, softmax."""
    random = np.random.default_rng(0)
    graph = Graph()
    gain = graph.constant("gain", np.ones(64, np.float32))
    w = graph.constant("w", random.standard_normal((64, 64)).astype(np.float32) / 8)
    normed = graph.node("RMSNormalization", ["x", gain], "normed", axis=-1, epsilon=1e-5)
    scores = graph.node("MatMul", [normed, w], "scores")
    spread = graph.node("Softmax", [scores], "spread", axis=-1)
    graph.node("Add", ["x", spread], "y")
    return graph.model({"x": (1, 16, 64)}, {"y": (1, 16, 64)})


def on_cpu(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output by onnxruntime's CPU provider, node by node as the model says: nothing is fused."""
    return all_on_cpu(model, feeds)[0]


def all_on_cpu(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """As ``on_cpu``, every output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return list(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds))


def decibels(truth: np.ndarray, seen: np.ndarray) -> float:
    """Signal-to-noise ratio in dB."""
    truth, seen = truth.astype(np.float64), seen.astype(np.float64)
    noise = ((truth - seen) ** 2).sum()
    return float(10 * np.log10((truth**2).sum() / noise)) if noise else float("inf")
