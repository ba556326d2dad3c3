"""What each input of an operator is to quantization, as data; and which values must have one scale.

Sources: the operators' definitions (ONNX), onnxruntime's quantization tool (fixed ranges of Sigmoid and Tanh, int32
biases) and what the HTP compiler of onnxruntime-qnn 2.7.0 was seen to take.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import onnx

from edgepress.onnx_graph.walk import attribute

Role = Literal["activation", "weight", "bias", "gain", "float"]

# Values pass through these unchanged, and so do their codes: outputs have the scale of input 0 (Concat: of all inputs).
_SHAPING = ("Concat", "DepthToSpace", "Expand", "Flatten", "Pad", "Reshape", "SpaceToDepth", "Squeeze", "Unsqueeze")
_PICKING = ("Gather", "GatherElements", "GatherND", "Identity", "MaxPool", "Slice", "Split", "Tile", "Transpose")
MOVES = frozenset(_SHAPING + _PICKING)
# Computed in float between integers: what they read is dequantized, and their weights stay as they are.
FLOAT = frozenset(["GRU", "If", "LSTM", "Loop", "RNN", "Scan"])
# Only the first input is data; the rest are parameters.
FIRST_ONLY = frozenset(["Clip", "Pad", "Resize", "TopK", "Upsample"])
# These look at nothing but the shape.
SHAPES = frozenset(["Shape", "Size"])
# Norms that may have a bias.
NORMS = frozenset(("GroupNormalization", "InstanceNormalization", "LayerNormalization"))
BATCH_NORM = "BatchNormalization"

_ROLES: dict[str, tuple[Role, ...]] = {
    "Conv": ("activation", "weight", "bias"),
    "ConvTranspose": ("activation", "weight", "bias"),
    "Gemm": ("activation", "weight", "bias"),
    "MatMul": ("activation", "weight"),
    "LayerNormalization": ("activation", "gain", "bias"),
    "InstanceNormalization": ("activation", "gain", "bias"),
    "GroupNormalization": ("activation", "gain", "bias"),
    "RMSNormalization": ("activation", "gain"),
}


def role(node: onnx.NodeProto, index: int, *, is_constant: bool, rank: int) -> Role:
    """The role of input ``index``, which has ``rank`` axes. Only constants are weights, gains or biases."""
    if node.op_type in SHAPES or (index and node.op_type in FIRST_ONLY) or (is_constant and node.op_type in FLOAT):
        return "float"
    roles = _ROLES.get(node.op_type, ())
    found = roles[index] if is_constant and index < len(roles) else "activation"
    # A batch of matrices has no axis of channels.
    return "activation" if node.op_type == "MatMul" and rank != 2 else found


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a weight along which each output channel has a scale."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def fixed_range(node: onnx.NodeProto, bits: int) -> tuple[float, float] | None:
    """The range of an output that the operator itself bounds; steps are powers of two where the HTP wants them so."""
    step = 2.0**-bits
    return {"Softmax": (0.0, 1.0), "Sigmoid": (0.0, 1 - step), "Tanh": (-1.0, 1 - 2 * step)}.get(node.op_type)


class Ties:
    """Sets of values that must have one scale, because codes pass from one to the other unchanged."""

    def __init__(self, nodes: Iterable[onnx.NodeProto], is_float: Mapping[str, bool]) -> None:
        self._parent: dict[str, str] = {}
        for node in nodes:
            if node.op_type in MOVES:
                inputs = node.input if node.op_type == "Concat" else node.input[:1]
                first, *others = [name for name in [*inputs, *node.output] if name and is_float.get(name)] or [""]
                for other in others:
                    self._parent[self.of(other)] = self.of(first)

    def of(self, name: str) -> str:
        """The value that stands for all that are tied to ``name``."""
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name
