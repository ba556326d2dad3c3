"""MobileNetV2 1.0-224 (Sandler et al. 2018, table 2) as ONNX, from weights with batch norms folded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.source.stored import read_header

SIZE = 224
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def build_mobilenet(weights: Path, target: Path, size: int = SIZE) -> None:
    """Write the network to ``target``: ``images`` (n, 3, size, size) in [−1, 1] → ``logits`` (n, 1001)."""
    _Network(weights).save(target, size)


class _Network:
    def __init__(self, weights: Path) -> None:
        self.tensors = {n: t.rows(0, t.shape[0]).reshape(t.shape) for n, t in read_header(weights).items() if t.shape}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def save(self, target: Path, size: int) -> None:
        """From stem to classifier."""
        x, index = self.convolution("images", "features.0.0", 2), 1
        for expansion, channels, count, stride in _STAGES:
            for i in range(count):
                x = self.block(x, f"features.{index}", channels, stride if i == 0 else 1, expands=expansion > 1)
                index += 1
        x = self.convolution(x, f"features.{index}.0", 1)
        x = self.node("GlobalAveragePool", [x], "pool")
        x = self.node("Flatten", [x], "flat", axis=1)
        gemm = [x, self.constant("classifier.weight"), self.constant("classifier.bias")]
        self.node("Gemm", gemm, "logits", transB=1)
        shapes: dict[str, Sequence[int | str]] = {"images": ["n", 3, size, size], "logits": ["n", 1001]}
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
        graph = helper.make_graph(self.nodes, "mobilenet", values[:1], values[1:], list(self.constants.values()))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), target)

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray | None = None) -> str:
        self.constants[name] = numpy_helper.from_array(self.tensors[name] if value is None else value, name)
        return name

    def convolution(self, x: str, name: str, stride: int, *, depthwise: bool = False, is_linear: bool = False) -> str:
        """A convolution padded as TensorFlow does, then min(max(x, 0), 6) unless it is linear."""
        weight = self.tensors[f"{name}.weight"]
        attributes = {
            "kernel_shape": list(weight.shape[2:]),
            "strides": [stride] * 2,
            "auto_pad": "SAME_UPPER",
            "group": len(weight) if depthwise else 1,
        }
        inputs = [x, self.constant(f"{name}.weight"), self.constant(f"{name}.bias")]
        y = self.node("Conv", inputs, name, **attributes)
        if is_linear:
            return y
        limits = [self.constant(f"relu6.{i}", np.array(value, np.float32)) for i, value in enumerate((0, 6))]
        return self.node("Clip", [y, *limits], f"{name}.relu6")

    def block(self, x: str, name: str, channels: int, stride: int, *, expands: bool) -> str:
        """Expand, depthwise, project; beside a shortcut where the shape stays."""
        y, part = x, 0
        if expands:
            y, part = self.convolution(y, f"{name}.conv.0.0", 1), 1
        incoming = self.tensors[f"{name}.conv.{part}.0.weight"].shape[0]
        y = self.convolution(y, f"{name}.conv.{part}.0", stride, depthwise=True)
        y = self.convolution(y, f"{name}.conv.{part + 1}.0", 1, is_linear=True)
        before = self.tensors[f"{name}.conv.0.0.weight"].shape[1] if expands else incoming
        return self.node("Add", [x, y], f"{name}.sum") if stride == 1 and before == channels else y
