"""A small residual network, in float32 and in QDQ, and images for it."""

import numpy as np
import onnx
from numpy.typing import NDArray


def quantized(name: str, scale: float) -> list[onnx.NodeProto]:
    """``name`` → uint8 → ``name``_q, in float32 again."""
    return [
        onnx.helper.make_node("QuantizeLinear", [name, f"{name}_scale", "zero"], [f"{name}_int"]),
        onnx.helper.make_node("DequantizeLinear", [f"{name}_int", f"{name}_scale", "zero"], [f"{name}_q"]),
        onnx.helper.make_node("Constant", [], [f"{name}_scale"], value_float=scale),
    ]


def residual_network(*, integer: bool, top: int = 63) -> onnx.ModelProto:
    """A small residual CNN: 3 convolutions, an addition, average pooling and a linear layer.

    ``integer``: int8 weights per channel, uint8 activations, as QDQ. Weights reach ``top``, by default in 7 bits:
    where processors with AVX2 and no VNNI add pairs of products up in 16 bits, those do not saturate.
    """
    generator = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {"zero": np.array(128, np.uint8)}

    def layer(op: str, source: str, name: str, shape: tuple[int, ...], scale: float, **attributes: object) -> None:
        weights = generator.normal(0, 1, shape).astype(np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
        bias = generator.normal(0, 0.1, shape[0]).astype(np.float32)
        inputs = [f"{name}_w", f"{name}_b"]
        constants.update({f"{name}_w": weights, f"{name}_b": bias})
        if integer:
            steps = np.abs(weights).reshape(shape[0], -1).max(1) / top  # (rows,)
            codes = np.rint(weights / steps.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
            bias_steps = (steps * np.float32(scale)).astype(np.float32)
            constants[f"{name}_w"], constants[f"{name}_ws"] = codes, steps.astype(np.float32)
            constants[f"{name}_b"], constants[f"{name}_bs"] = np.rint(bias / bias_steps).astype(np.int32), bias_steps
            for part in ("w", "b"):
                scales = [f"{name}_{part}", f"{name}_{part}s"]
                nodes.append(onnx.helper.make_node("DequantizeLinear", scales, [f"{name}_{part}q"], axis=0))
            inputs = [f"{name}_wq", f"{name}_bq"]
        nodes.append(onnx.helper.make_node(op, [source, *inputs], [name], **attributes))

    def step(name: str, scale: float) -> str:
        """Round ``name`` to uint8 if the network is of integers; the name to go on with."""
        if integer:
            nodes.extend(quantized(name, scale))
        return f"{name}_q" if integer else name

    around = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    source = step("image", 0.03)
    layer("Conv", source, "first", (16, 3, 3, 3), 0.03, **around)
    nodes.append(onnx.helper.make_node("Relu", ["first"], ["first_relu"]))
    trunk = step("first_relu", 0.03)
    layer("Conv", trunk, "second", (16, 16, 3, 3), 0.03, **around)
    nodes.append(onnx.helper.make_node("Relu", ["second"], ["second_relu"]))
    branch = step("second_relu", 0.03)
    layer("Conv", branch, "third", (16, 16, 3, 3), 0.03, **around)
    nodes.append(onnx.helper.make_node("Add", [step("third", 0.03), trunk], ["sum"]))
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [step("sum", 0.05)], ["pooled"]))
    nodes.append(onnx.helper.make_node("Flatten", [step("pooled", 0.01)], ["flat"]))
    layer("Gemm", step("flat", 0.01), "logits", (10, 16), 0.01, transB=1)
    output = step("logits", 0.02)
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        [*[node for node in nodes if node.op_type == "Constant"], *[n for n in nodes if n.op_type != "Constant"]],
        "residual",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 16, 16])],
        [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["n", 10])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


IMAGES = np.random.default_rng(6).normal(0, 1, (24, 3, 16, 16)).astype(np.float32)
