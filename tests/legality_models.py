"""Small ONNX models that checks of legality are tried on."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def value(name: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"{outputs[0]}_node", domain=domain, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def chain(*ops: str, shape: Shape = (1, 3, 8, 8)) -> onnx.ModelProto:
    """Operators of one input and one output in a row: x → v0 → v1 → …"""
    names = ["x", *(f"v{index}" for index in range(len(ops)))]
    nodes = [node(op, [names[index]], [names[index + 1]]) for index, op in enumerate(ops)]
    return model(nodes, [value("x", shape)], [value(names[-1], shape)])


def convolution(weights: np.ndarray | None = None, shape: Shape = (1, 3, 8, 8)) -> onnx.ModelProto:
    """A 3×3 Conv and a Relu."""
    weights = np.ones((4, 3, 3, 3), np.float32) if weights is None else weights
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])]
    return model(nodes, [value("x", shape)], [value("y", None)], {"w": weights})


def quantized_convolution(kind: type = np.uint8, opset: int = 21) -> onnx.ModelProto:
    """A Conv as QDQ has it: activations quantized to ``kind``, weights to int8, bias to int32."""
    constants = {
        "scale": np.array(0.01, np.float32),
        "zero": np.array(np.iinfo(kind).max // 2 + 1 if np.issubdtype(kind, np.unsignedinteger) else 0, kind),
        "weights": np.ones((4, 3, 3, 3), np.int8),
        "weights_scale": np.full(4, 0.01, np.float32),
        "weights_zero": np.zeros(4, np.int8),
        "bias": np.zeros(4, np.int32),
        "bias_scale": np.full(4, 0.0001, np.float32),
    }
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        node("DequantizeLinear", ["weights", "weights_scale", "weights_zero"], ["wd"], axis=0),
        node("DequantizeLinear", ["bias", "bias_scale"], ["bd"], axis=0),
        node("Conv", ["xd", "wd", "bd"], ["c"], pads=[1, 1, 1, 1]),
        node("QuantizeLinear", ["c", "scale", "zero"], ["yq"]),
        node("DequantizeLinear", ["yq", "scale", "zero"], ["y"]),
    ]
    return model(nodes, [value("x", (1, 3, 8, 8))], [value("y", (1, 4, 8, 8))], constants, opset)


def matmul_nbits(
    bits: int = 4, block: int = 32, level: int = 4, kind: int = TensorProto.FLOAT, zero_points: bool = False
) -> onnx.ModelProto:
    """One MatMulNBits of 64 × 32 weights."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    blocks = -(-64 // block)
    constants = {
        "codes": np.zeros((32, blocks, block * bits // 8), np.uint8),
        "scales": np.ones((32, blocks), dtype),
    }
    if zero_points:
        constants["zero_points"] = np.zeros((32, -(-blocks * bits // 8)), np.uint8)
    attributes = {"K": 64, "N": 32, "bits": bits, "block_size": block, "accuracy_level": level}
    product = node("MatMulNBits", ["x", *constants], ["y"], "com.microsoft", **attributes)
    return model([product], [value("x", (1, 64), kind)], [value("y", (1, 32), kind)], constants)
