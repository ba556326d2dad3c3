"""CIFAR-10's ResNet-20 (He et al., 2016, section 4.2; option-A shortcuts) as ONNX, from its safetensors file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.source.stored import read_header

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Floats = np.ndarray


def normalize(images: np.ndarray) -> Floats:
    """Images (n, 32, 32, 3) uint8 as the network takes them, (n, 3, 32, 32) float32."""
    scaled = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(scaled.astype(np.float32).transpose(0, 3, 1, 2))


def build_resnet(weights: Path, target: Path, *, batch: int | str = 1) -> None:
    """Write the network to ``target``, batch norms as they are: ``images`` (batch, 3, 32, 32) → ``logits``."""
    _Network(weights, batch).save(target)


class _Network:
    def __init__(self, weights: Path, batch: int | str) -> None:
        self.tensors = {
            name: t.rows(0, t.shape[0]).reshape(t.shape) for name, t in read_header(weights).items() if t.shape
        }
        self.batch, self.nodes, self.constants = batch, [], {}

    def save(self, target: Path) -> None:
        """From stem to head."""
        x = self.relu(self.convolution("images", "conv1", "bn1", 1))
        for stage in (1, 2, 3):
            blocks = sum(f"layer{stage}.{i}.conv1.weight" in self.tensors for i in range(100))
            for index in range(blocks):
                x = self.block(x, f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1)
        x = self.node("GlobalAveragePool", [x], "pool")
        x = self.node("Flatten", [x], "features", axis=1)
        gemm = [x, self.tensor("linear.weight"), self.tensor("linear.bias")]
        self.node("Gemm", gemm, "logits", transB=1)
        shapes = {"images": [self.batch, 3, 32, 32], "logits": [self.batch, 10]}
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
        graph = helper.make_graph(self.nodes, "resnet", values[:1], values[1:], list(self.constants.values()))
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), target)

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def tensor(self, name: str) -> str:
        return self.constant(name, self.tensors[name])

    def relu(self, x: str) -> str:
        return self.node("Relu", [x], f"{x}.relu")

    def convolution(self, x: str, conv: str, norm: str, stride: int) -> str:
        """3×3, then batch norm."""
        attributes = {"strides": [stride] * 2, "pads": [1] * 4, "kernel_shape": [3, 3]}
        y = self.node("Conv", [x, self.tensor(f"{conv}.weight")], conv, **attributes)
        parts = [self.tensor(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", [y, *parts], norm, epsilon=1e-5)

    def block(self, x: str, name: str, stride: int) -> str:
        """Two convolutions beside a shortcut, which between stages takes every second pixel and pads the channels."""
        y = self.relu(self.convolution(x, f"{name}.conv1", f"{name}.bn1", stride))
        y = self.convolution(y, f"{name}.conv2", f"{name}.bn2", 1)
        if stride > 1:
            limits = {"starts": [0, 0], "ends": [32, 32], "axes": [2, 3], "steps": [2, 2]}
            slices = [self.constant(f"slice.{key}", np.array(value)) for key, value in limits.items()]
            x = self.node("Slice", [x, *slices], f"{name}.half")
            added = self.tensors[f"{name}.conv1.weight"].shape[1] // 2  # channels on each side
            pads = self.constant(f"{name}.pads", np.array([0, added, 0, 0, 0, added, 0, 0]))
            x = self.node("Pad", [x, pads], f"{name}.padded")
        return self.relu(self.node("Add", [x, y], f"{name}.sum"))
