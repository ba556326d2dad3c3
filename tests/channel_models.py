"""Graphs of convolutions, linear layers and attention whose values are small whole numbers: sums are exact in float32.

What is cut then must equal what is masked bit by bit, in whatever order a kernel adds.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class GraphOfIntegers:
    """A graph being written: weights of −1, 0 and 1."""

    def __init__(self, seed: int, *, opset: int = 21) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        """A constant of −1, 0 and 1."""
        return self.constant(self.random.integers(-1, 2, shape).astype(np.float32))

    def constant(self, value: NDArray[np.generic]) -> str:
        """A constant with a name of its own."""
        self.constants.append(numpy_helper.from_array(value, f"constant_{len(self.constants)}"))
        return self.constants[-1].name

    def integers(self, *values: int) -> str:
        """Sizes, axes and such."""
        return self.constant(np.array(values, np.int64))

    def node(
        self, op: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: object
    ) -> list[str]:
        """A node; the names of what it makes."""
        names = [f"{op.lower()}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], domain=domain, **attributes))
        return names

    def one(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """A node with one output: its name."""
        return self.node(op, inputs, domain=domain, **attributes)[0]

    def model(self, inputs: dict[str, Sequence[int | str]], outputs: dict[str, Sequence[int | str]]) -> onnx.ModelProto:
        """The model, shapes inferred and checked."""
        values = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in edges.items()]
            for edges in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "integers", *values, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model)
        return model


def convolutions(steps: Sequence[str], seed: int) -> onnx.ModelProto:
    """Blocks of the kinds ``steps`` one after the other, on (batch, 3, 6, 6), then pooling by the maximum and a layer.

    Each is one of :data:`BLOCKS`; a convolution has 8 channels to begin with.
    """
    g = GraphOfIntegers(seed)
    x, channels = g.one("Conv", "image", g.weight(8, 3, 3, 3), g.weight(8), pads=[1] * 4), 8
    for step in steps:
        x, channels = BLOCKS[step](g, x, channels)
    x = g.one("Flatten", g.one("GlobalMaxPool", g.one("Relu", x)))
    y = g.one("Gemm", x, g.weight(5, channels), g.weight(5), transB=1)
    return g.model({"image": ["batch", 3, 6, 6]}, {y: ["batch", 5]})


def _conv(g: GraphOfIntegers, x: str, channels: int, out: int, groups: int = 1) -> str:
    y = g.one("Conv", x, g.weight(out, channels // groups, 3, 3), g.weight(out), pads=[1] * 4, group=groups)
    return g.one("Relu", y)


def _plain(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    return _conv(g, x, channels, 8), 8


def _depthwise(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    return _conv(g, x, channels, 2 * channels, channels), 2 * channels


def _grouped(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    return _conv(g, x, channels, 8, 2), 8


def _residual(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    y = _conv(g, x, channels, 6)
    return g.one("Add", x, _conv(g, y, 6, channels)), channels


def _padded(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    """A shortcut whose channels are padded with zeros (He et al. 2016, option A)."""
    half = g.one("Slice", x, g.integers(0, 0), g.integers(6, 6), g.integers(2, 3), g.integers(1, 1))
    wide = g.one("Pad", half, g.integers(0, 2, 0, 0, 0, 2, 0, 0))
    return g.one("Add", wide, _conv(g, x, channels, channels + 4)), channels + 4


def _dense(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    return g.one("Concat", x, _conv(g, x, channels, 4), axis=1), channels + 4


def _halves(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    """Split, one part convolved, joined, and shuffled as ShuffleNet does."""
    first = channels // 2
    left, right = g.node("Split", [x, g.integers(first, channels - first)], 2, axis=1)
    x = g.one("Concat", left, _conv(g, right, channels - first, first), axis=1)
    x = g.one("Reshape", x, g.integers(0, 2, first, 6, 6))
    x = g.one("Transpose", x, perm=[0, 2, 1, 3, 4])
    return g.one("Reshape", x, g.integers(0, -1, 6, 6)), 2 * first


def _excited(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    """Squeeze-and-excite with a maximum and a step, which are exact."""
    y = g.one("Relu", g.one("Conv", g.one("GlobalMaxPool", x), g.weight(4, channels, 1, 1)))
    y = g.one("Sign", g.one("Conv", y, g.weight(channels, 4, 1, 1)))
    return g.one("Mul", x, y), channels


def _normed(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    """Batch norm, PRelu, and a range of channels by Slice."""
    y = g.one("Conv", x, g.weight(8, channels, 1, 1))
    variance = g.constant(np.ones(8, np.float32))
    y = g.one("BatchNormalization", y, g.weight(8), g.weight(8), g.weight(8), variance, epsilon=0.0)
    y = g.one("PRelu", y, g.weight(8, 1, 1))
    return g.one("Slice", y, g.integers(1), g.integers(7), g.integers(1)), 6


def _transposed(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    y = g.one("ConvTranspose", x, g.weight(channels, 4, 3, 3), g.weight(4), pads=[1] * 4)
    return g.one("Concat", x, y, axis=1), channels + 4


def _gathered(g: GraphOfIntegers, x: str, channels: int) -> tuple[str, int]:
    order = g.random.permutation(channels)[: max(2, channels - 2)]
    return g.one("Gather", x, g.integers(*order.tolist()), axis=1), len(order)


BLOCKS = {
    "plain": _plain,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "residual": _residual,
    "padded": _padded,
    "dense": _dense,
    "halves": _halves,
    "excited": _excited,
    "normed": _normed,
    "transposed": _transposed,
    "gathered": _gathered,
}
IMAGES = np.random.default_rng(3).integers(-1, 2, (2, 3, 6, 6)).astype(np.float32)


def encoder(*, fused: bool, heads: int = 4, size: int = 2, seed: int = 0) -> onnx.ModelProto:
    """Attention and an MLP on (batch, length, 6), without norms; scores' steps are exact where ``fused`` is False."""
    g, width, inner = GraphOfIntegers(seed), 6, heads * size
    q, k, v = (g.one("Add", g.one("MatMul", "x", g.weight(width, inner)), g.weight(inner)) for _ in range(3))
    if fused:
        y = g.one("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=heads)
    else:
        shape = g.integers(0, 0, heads, size)
        q, k, v = (g.one("Transpose", g.one("Reshape", z, shape), perm=[0, 2, 1, 3]) for z in (q, k, v))
        scores = g.one("MatMul", q, g.one("Transpose", k, perm=[0, 1, 3, 2]))
        y = g.one("Transpose", g.one("MatMul", g.one("Sign", scores), v), perm=[0, 2, 1, 3])
        y = g.one("Reshape", y, g.integers(0, 0, inner))
    return _after_attention(g, y, inner)


def standard_encoder(
    *, together: bool, packed: bool = False, kv_heads: int = 4, bias: int = 0, seed: int = 0
) -> onnx.ModelProto:
    """The same with ONNX's Attention, 4 heads of 2 numbers, 3 positions; heads move apart for it unless ``together``.

    With ``packed`` queries, keys and values are of one product; what is added to scores has ``bias`` heads, and as many
    texts as the queries say.
    """
    g, heads, size, width = GraphOfIntegers(seed, opset=23), 4, 2, 6
    counts = [heads, kv_heads, kv_heads]
    if packed:
        x = g.one("Add", g.one("MatMul", "x", g.weight(width, 24)), g.weight(24))
    else:
        parts = [g.one("Add", g.one("MatMul", "x", g.weight(width, n * size)), g.weight(n * size)) for n in counts]
    if packed and together:
        parts = g.node("Split", [x, g.integers(8, 8, 8)], 3, axis=-1)
    elif packed:
        x = g.one("Transpose", g.one("Reshape", x, g.integers(0, 0, 3, heads, size)), perm=[2, 0, 3, 1, 4])
        cuts = [g.one("Slice", x, g.integers(i), g.integers(i + 1), g.integers(0)) for i in range(3)]
        parts = [g.one("Squeeze", cut, g.integers(0)) for cut in cuts]
    elif not together:
        views = [g.one("Reshape", z, g.integers(0, 0, n, size)) for z, n in zip(parts, counts, strict=True)]
        parts = [g.one("Transpose", view, perm=[0, 2, 1, 3]) for view in views]
    if bias:
        sizes = g.one("Concat", g.one("Shape", parts[0], start=0, end=1), g.integers(1, 1, 1), axis=0)
        parts = [*parts, g.one("Expand", g.weight(1, bias, 3, 3), sizes)]
    names = {"q_num_heads": heads, "kv_num_heads": kv_heads} if together else {}
    y = g.one("Attention", *parts, scale=0.3, **names)
    if not together:
        y = g.one("Reshape", g.one("Transpose", y, perm=[0, 2, 1, 3]), g.integers(0, 0, heads * size))
    return _after_attention(g, y, heads * size, length=3)


def _after_attention(g: GraphOfIntegers, y: str, inner: int, length: int | str = "length") -> onnx.ModelProto:
    """The product after attention and an MLP, each with its sum."""
    width = 6
    x = g.one("Add", "x", g.one("MatMul", y, g.weight(inner, width)))
    up = g.one("Relu", g.one("Add", g.one("MatMul", x, g.weight(width, 10)), g.weight(10)))
    y = g.one("Add", x, g.one("MatMul", up, g.weight(10, width)))
    return g.model({"x": ["batch", length, width]}, {y: ["batch", length, width]})
