"""How a convolution whose weight is stored in 8 bits is best written: time of one call in each form, one thread.

python benchmarks/convolution_forms.py

``float``: the weight as it was. ``folded``: Cast, Sub and Mul, which onnxruntime computes when it opens the graph.
``dequantized``: DequantizeLinear. ``integer``: DynamicQuantizeLinear and ConvInteger.
"""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import onnx
from common import host
from onnx import TensorProto, helper, numpy_helper

from edgepress.sessions import open_on_cpu, session_options

SHAPES = ((64, 64, 3, 1, 16), (32, 192, 1, 1, 56), (192, 192, 3, 192, 28))  # in, out, kernel, groups, height and width
CALLS = 30
Constants = dict[str, np.ndarray]


def forms(
    channels: int, outputs: int, kernel: int, groups: int
) -> Iterator[tuple[str, list[onnx.NodeProto], Constants]]:
    """The nodes and constants of each form, which read x and give y."""
    weight = np.random.default_rng(0).standard_normal((outputs, channels // groups, kernel, kernel)).astype(np.float32)
    scale = (np.abs(weight).reshape(outputs, -1).max(1) / 127).astype(np.float32)
    codes = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
    unsigned = (codes.astype(np.int16) + 128).astype(np.uint8)
    settings = {"group": groups, "pads": [kernel // 2] * 4}
    product = helper.make_node("Conv", ["x", "w"], ["y"], **settings)
    yield "float", [product], {"w": weight}
    folded = [
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["numbers", "zero"], ["steps"]),
        helper.make_node("Mul", ["steps", "scale"], ["w"]),
    ]
    yield (
        "folded",
        [*folded, product],
        {"codes": unsigned, "zero": np.array(128, np.float32), "scale": scale.reshape(-1, 1, 1, 1)},
    )
    back = helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=0)
    yield "dequantized", [back, product], {"codes": codes, "scale": scale}
    integer = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x.codes", "x.scale", "x.zero"]),
        helper.make_node("ConvInteger", ["x.codes", "codes", "x.zero", "zero"], ["sums"], **settings),
        helper.make_node("Cast", ["sums"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "x.scale"], ["step"]),
        helper.make_node("Mul", ["numbers", "step"], ["y"]),
    ]
    yield "integer", integer, {"codes": unsigned, "zero": np.array(128, np.uint8), "scale": scale.reshape(1, -1, 1, 1)}


def milliseconds(nodes: list[onnx.NodeProto], constants: Constants, x: np.ndarray) -> float:
    """The median time of a call."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x.shape), ("y", None))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "one", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session, times = open_on_cpu(model.SerializeToString(), session_options(1)), []
    for _ in range(CALLS + 1):
        start = perf_counter()
        session.run(None, {"x": x})
        times.append(perf_counter() - start)
    return 1e3 * float(np.median(times[1:]))


if __name__ == "__main__":
    print(host())
    for channels, outputs, kernel, groups, size in SHAPES:
        x = np.random.default_rng(1).standard_normal((1, channels, size, size)).astype(np.float32)
        found = {
            name: milliseconds(nodes, constants, x)
            for name, nodes, constants in forms(channels, outputs, kernel, groups)
        }
        words = ", ".join(f"{name} {time:.3f} ms" for name, time in found.items())
        print(f"{channels} → {outputs}, {kernel}×{kernel}, {groups} groups, {size}×{size}: {words}")
