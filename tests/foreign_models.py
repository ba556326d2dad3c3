"""Small models of every kind that other tools write, made with onnx alone, each with what its weights are for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Maker:
    """Nodes and constants of one model; ``save`` puts them into a file."""

    def __init__(self, opset: int = 17) -> None:
        self.random = np.random.default_rng(opset)
        self.opset, self.nodes, self.constants = opset, [], {}
        self.inputs, self.outputs = [], []

    def weight(self, name: str, *shape: int) -> str:
        size = np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
        self.constants[name] = (self.random.standard_normal(shape) / size).astype(np.float32)
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def node(self, op: str, inputs: list[str], output: str | list[str], **attributes: Any) -> str:
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def edge(self, name: str, shape: list[int | str], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def given(self, name: str, shape: list[int | str], kind: int = FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def model(self) -> onnx.ModelProto:
        tensors = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "made", self.inputs, self.outputs, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def lstm(kind: str = "LSTM") -> onnx.ModelProto:
    """A recurrent layer in two directions over (sequence, batch, 12), whose weights are cut from one matrix."""
    m, gates = Maker(), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    m.edge("x", ["sequence", "batch", 12])
    whole = m.weight("w", 2, gates * 20, 12)
    m.weight("r", 2, gates * 20, 20)
    m.weight("b", 2, gates * 40)
    for key, value in (("zero", [0]), ("many", [10_000]), ("axis", [1])):
        m.constant(key, np.array(value, np.int64))
    cut = m.node("Slice", [whole, "zero", "many", "axis"], "w.cut")
    m.node(kind, ["x", cut, "r", "b"], ["y", "last"], hidden_size=20, direction="bidirectional")
    m.given("y", ["sequence", 2, "batch", 20])
    m.given("last", [2, "batch", 20])
    return m.model()


def convolutions() -> onnx.ModelProto:
    """Conv1d, a batch norm, a depthwise one, a transposed one, and a norm that stands alone."""
    m = Maker()
    m.edge("x", ["batch", 6, "time"])
    y = m.node("Conv", ["x", m.weight("first", 24, 6, 3)], "c1", pads=[1, 1])
    for part in ("gain", "bias", "mean"):
        m.weight(part, 24)
    m.constant("variance", m.random.uniform(0.5, 2, 24).astype(np.float32))
    y = m.node("BatchNormalization", [y, "gain", "bias", "mean", "variance"], "n1")
    y = m.node("Relu", [y], "a1")
    y = m.node("Conv", [y, m.weight("depthwise", 24, 1, 5), m.weight("depthwise.b", 24)], "c2", group=24, pads=[2, 2])
    y = m.node("Add", [y, "a1"], "sum")
    y = m.node("BatchNormalization", [y, "gain", "bias", "mean", "variance"], "n2")
    m.node("ConvTranspose", [y, m.weight("up", 24, 5, 4)], "y", strides=[2])
    m.given("y", ["batch", 5, "longer"])
    return m.model()


def products() -> onnx.ModelProto:
    """Two inputs and two outputs; every way to multiply: Gemm with α, β and both transpositions, batches, a vector."""
    m = Maker()
    m.edge("x", [24, "batch"])
    m.edge("v", [40])
    y = m.node("Gemm", ["x", m.weight("g", 40, 24), m.weight("c", 40)], "gemm", transA=1, transB=1, alpha=0.5, beta=2.0)
    y = m.node("Gemm", [y, m.weight("h", 40, 33)], "plain")
    m.node("MatMul", [m.weight("left", 5, 40), m.node("Transpose", ["gemm"], "gemm.t")], "first")
    m.node("MatMul", ["v", m.weight("u", 40, 18)], "second")
    y = m.node("Unsqueeze", [y, m.constant("axis", np.array([0], np.int64))], "stack")
    m.node("MatMul", [y, m.weight("batches", 3, 33, 17)], "third")
    m.given("first", [5, "batch"])
    m.given("second", [18])
    m.given("third", [3, "batch", 17])
    return m.model()


def tied() -> onnx.ModelProto:
    """A table that is looked up, and whose transposition is the last product; a width that no block divides."""
    m = Maker()
    m.edge("ids", ["batch", "tokens"], INT64)
    table = m.weight("table", 50, 40)
    y = m.node("Gather", [table, "ids"], "rows")
    y = m.node("LayerNormalization", [y, m.weight("gain", 40), m.weight("shift", 40)], "normed", axis=-1)
    m.node("MatMul", [y, m.node("Transpose", [table], "table.t", perm=[1, 0])], "logits")
    m.given("logits", ["batch", "tokens", 50])
    return m.model()


def branches() -> onnx.ModelProto:
    """An If whose branches have weights of one name each, a Loop that reads one from outside."""
    m = Maker()
    m.edge("x", ["batch", 20])
    m.edge("which", [], TensorProto.BOOL)

    def branch(name: str, scale: float) -> onnx.GraphProto:
        weight = (m.random.standard_normal((20, 20)) * scale).astype(np.float32)
        node = helper.make_node("MatMul", ["moved", "w"], [f"{name}.y"])
        value = helper.make_tensor_value_info(f"{name}.y", FLOAT, ["batch", 20])
        return helper.make_graph([node], name, [], [value], [numpy_helper.from_array(weight, "w")])

    m.node("Constant", [], "large", value=numpy_helper.from_array(np.full((1, 20), 0.25, np.float32)))
    m.node("Add", ["x", "large"], "moved")
    m.node("If", ["which"], "chosen", then_branch=branch("yes", 0.2), else_branch=branch("no", 0.1))
    m.weight("again", 20, 20)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "again"], ["state.product"]),
            helper.make_node("Tanh", ["state.product"], ["state.next"]),
            helper.make_node("Identity", ["go"], ["go.next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, ["batch", 20]),
        ],
        [
            helper.make_tensor_value_info("go.next", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state.next", FLOAT, ["batch", 20]),
        ],
    )
    m.constant("times", np.array(3, np.int64))
    m.constant("true", np.array(True))
    m.node("Loop", ["times", "true", "chosen"], "looped", body=body)
    m.node("MatMul", ["looped", m.weight("last", 20, 18)], "y")
    m.given("y", ["batch", 18])
    return m.model()


def old() -> onnx.ModelProto:
    """Opset 9, as files of years ago are: constants among the inputs, axes in attributes."""
    m = Maker(opset=9)
    m.edge("x", ["batch", 24])
    m.node("Unsqueeze", ["x"], "three", axes=[0])
    m.node("Squeeze", ["three"], "two", axes=[0])
    m.node("Dropout", ["two"], "kept", ratio=0.5)
    m.node("MatMul", ["kept", m.weight("w", 24, 18)], "y")
    m.edge("w", [24, 18])
    m.given("y", ["batch", 18])
    model = m.model()
    model.ir_version = 3
    return model


def half() -> onnx.ModelProto:
    """Weights and computation in float16 between float32 edges."""
    m = Maker()
    m.edge("x", ["batch", 24])
    m.node("Cast", ["x"], "x.half", to=TensorProto.FLOAT16)
    m.node("MatMul", ["x.half", m.weight("w", 24, 18)], "y.half")
    m.constants["w"] = m.constants["w"].astype(np.float16)
    m.node("Cast", ["y.half"], "y", to=FLOAT)
    m.given("y", ["batch", 18])
    return m.model()


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "lstm": lstm,
    "gru": lambda: lstm("GRU"),
    "rnn": lambda: lstm("RNN"),
    "convolutions": convolutions,
    "products": products,
    "tied": tied,
    "branches": branches,
    "old": old,
    "half": half,
}


def feed_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers for each input, sizes of free axes by their names."""
    random, sizes = np.random.default_rng(seed), {"batch": 2, "tokens": 6, "time": 9, "sequence": 5}
    constants = {tensor.name for tensor in model.graph.initializer}
    feed: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == FLOAT:
            feed[value.name] = random.standard_normal(shape).astype(np.float32)
        else:
            feed[value.name] = random.integers(0, 2 if kind == TensorProto.BOOL else 50, shape).astype(
                helper.tensor_dtype_to_np_dtype(kind)
            )
    return feed


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model, and return where."""
    path.write_bytes(model.SerializeToString())
    return path
