"""A layer norm that a converter wrote as its parts is one node again [Ba et al. 2016, equation 4].

::

    x ─ ReduceMean ─ m,  d = x − m,  d · gain / sqrt(ReduceMean(d²) + ε) + bias  ─►  LayerNormalization(x, gain, bias)

Part by part, an 8-bit variance has a handful of values left; as one node only what goes in and comes out is rounded.
"""

import numpy as np
import onnx
from onnx import helper

from edgepress.exporter.graph.editing import set_nodes
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.values import Scope, elements
from edgepress.onnx_graph.walk import attribute, normal_domain, operand, opset, read_inside

_SINCE = 17  # the opset that LayerNormalization came with; from 13 to there operators gained types and options alone


def fuse_layer_norms(model: onnx.ModelProto, weights: Weights) -> int:
    """Fuse the layer norms over the last axis of the main graph, in place; return how many there were."""
    fuser = _Fuser(model, weights)
    found = {index: norm for index, node in enumerate(model.graph.node) if (norm := fuser.fused(node)) is not None}
    if not found:
        return 0
    nodes = [found.get(index, node) for index, node in enumerate(model.graph.node)]
    set_nodes(model.graph, [node for node in nodes if node.output[0] not in fuser.parts])
    if opset(model) < _SINCE:
        next(one for one in model.opset_import if not normal_domain(one.domain)).version = _SINCE
    return len(found)


class _Fuser(Scope):
    """The main graph of a model; ``parts`` are what nodes give that fused ones stand for."""

    def __init__(self, model: onnx.ModelProto, weights: Weights) -> None:
        super().__init__(model)
        self.parts: set[str] = set()
        self._weights = weights
        self._seen = {value.name for value in model.graph.output}
        self._seen |= {name for node in model.graph.node for name in read_inside(node)}

    def fused(self, last: onnx.NodeProto) -> onnx.NodeProto | None:
        """The norm that ends in ``last``, None where none does."""
        if last.op_type != "Add" or last.domain:
            return None
        scaled, bias = self._operand(last, "Mul")
        normal, gain = self._operand(scaled, "Div")
        root = self._made(normal, 1, "Sqrt")
        shifted, small = self._operand(self._made(root, 0, "Add"), "ReduceMean")
        if scaled is None or normal is None or root is None or shifted is None:
            return None
        squares = self._made(shifted, 0, "Pow") or self._made(shifted, 0, "Mul")
        centred = self._made(normal, 0, "Sub", readers=2)
        mean = self._made(centred, 1, "ReduceMean")
        if squares is None or centred is None or mean is None:
            return None
        x, epsilon, sizes = centred.input[0], self._number(small), {self._size(gain), self._size(bias)}
        is_square = squares.input[0] == centred.output[0] and (
            self._number(squares.input[1]) == 2 if squares.op_type == "Pow" else squares.input[1] == squares.input[0]
        )
        over_last = self._is_over_last(mean, x) and self._is_over_last(shifted, x)
        if not is_square or not over_last or mean.input[0] != x or epsilon is None or len(sizes) > 1 or None in sizes:
            return None
        sums = self.makers[root.input[0]]
        self.parts |= {node.output[0] for node in (scaled, normal, root, sums, shifted, squares, centred, mean)}
        inputs, name = [x, gain, bias], last.name or last.output[0]
        return helper.make_node("LayerNormalization", inputs, last.output, name=name, axis=-1, epsilon=epsilon)

    def _made(
        self, reader: onnx.NodeProto | None, index: int, operator: str, *, readers: int = 1
    ) -> onnx.NodeProto | None:
        """What makes an input of ``reader``, if it is such an operator and nothing else reads that."""
        node = None if reader is None or len(reader.input) <= index else self.makers.get(reader.input[index])
        if node is None or node.op_type != operator or node.domain or node.output[0] in self._seen:
            return None
        return node if len(self.readers.get(node.output[0], ())) == readers else None

    def _operand(self, node: onnx.NodeProto | None, operator: str) -> tuple[onnx.NodeProto | None, str]:
        """What makes one of a node's two inputs, if it is such an operator, and the name of the other."""
        for index in (0, 1):
            if (made := self._made(node, index, operator)) is not None and node is not None:
                return made, node.input[1 - index]
        return None, ""

    def _number(self, name: str) -> float | None:
        tensor = self.constants.get(name)
        return float(self._weights.array(tensor).reshape(-1)[0]) if tensor and elements(tensor) == 1 else None

    def _size(self, name: str) -> int | None:
        """How many numbers a constant vector has."""
        tensor = self.constants.get(name)
        return tensor.dims[0] if tensor and len(tensor.dims) == 1 and tensor.dims[0] > 1 else None

    def _is_over_last(self, mean: onnx.NodeProto, x: str) -> bool:
        """Whether a ReduceMean is over the last axis of ``x``, and keeps it."""
        axes = attribute(mean, "axes", None)
        if axes is None and (tensor := self.constants.get(operand(mean, 1))) is not None:
            axes = np.asarray(self._weights.array(tensor)).reshape(-1).tolist()
        shape = self.shape(x)
        last = {-1} if shape is None else {-1, len(shape) - 1}
        return axes is not None and len(axes) == 1 and axes[0] in last and bool(attribute(mean, "keepdims", 1))
