"""Batch norms of a trained model become numbers: y = s x + t, s = gain / sqrt(variance + ε), t = bias − mean · s.

::

    x ─ Conv (W, b) ─ BatchNormalization  ─►  x ─ Conv (s W, s b + t)     where nothing else reads the convolution
    x ─ BatchNormalization                ─►  x ─ Mul (s) ─ Add (t)
"""

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgepress.exporter.graph.editing import copied, set_nodes
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.values import Scope, known_shapes
from edgepress.onnx_graph.walk import attribute, operand, read_inside

_EPSILON = 1e-5  # the operator's default
Vector = NDArray[np.float64]


def fold_batch_norms(model: onnx.ModelProto, weights: Weights) -> int:
    """Fold the batch norms of the main graph whose parameters are constants, in place; return how many there were."""
    folder = _Folder(model, weights)
    nodes = [line for node in model.graph.node for line in folder.replaced(node)]
    if folder.folded:
        set_nodes(model.graph, nodes)
        folder.store()
    return folder.folded


class _Folder:
    """One model whose batch norms are folded; new values of constants are kept until all nodes have been looked at."""

    def __init__(self, model: onnx.ModelProto, weights: Weights) -> None:
        self._model, self._weights = model, weights
        self._scope, self._shapes = Scope(model), known_shapes(model)
        self._outputs = {value.name for value in model.graph.output}
        self._inside = {name for node in model.graph.node for name in read_inside(node)}
        self._new: dict[str, TensorProto] = {}
        self._convolutions: dict[str, onnx.NodeProto] = {}  # by what they gave before
        self.folded = 0

    def replaced(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What stands for a node."""
        if node.op_type == "Conv":
            self._convolutions[node.output[0]] = node
        found = self._numbers(node) if node.op_type == "BatchNormalization" else None
        if found is None:
            return [node]
        x, y = node.input[0], node.output[0]
        made = self._convolutions.get(x)
        if made is not None and self._into(made, *found):
            made.output[0] = y  # the nodes are the model's own, of which one is written in the place of two
            self._convolutions[y] = made
            self.folded += 1
            return []
        if x not in self._shapes:
            return [node]
        self.folded += 1
        shape = [-1, *[1] * (len(self._shapes[x]) - 2)]
        for name, values in (("scale", found[0]), ("shift", found[1])):
            self._add(numpy_helper.from_array(values.astype(np.float32).reshape(shape), f"{y}.{name}"))
        return [
            onnx.helper.make_node("Mul", [x, f"{y}.scale"], [f"{y}.scaled"], name=f"{y}.scaled"),
            onnx.helper.make_node("Add", [f"{y}.scaled", f"{y}.shift"], [y], name=node.name or y),
        ]

    def _numbers(self, node: onnx.NodeProto) -> tuple[Vector, Vector] | None:
        """s and t, (channels,); None where they are not known."""
        constants = [self._scope.constants.get(name) for name in node.input[1:5]]
        if attribute(node, "training_mode", 0) or any(tensor is None for tensor in constants):
            return None
        gain, bias, mean, variance = (
            self._weights.array(tensor).astype(np.float64) for tensor in constants if tensor is not None
        )
        scale = gain / np.sqrt(variance + attribute(node, "epsilon", _EPSILON))
        return scale, bias - mean * scale

    def _into(self, node: onnx.NodeProto, scale: Vector, shift: Vector) -> bool:
        """Put a norm into the convolution before it, unless others read that, or share its weights."""
        x, names = node.output[0], [node.input[1], operand(node, 2)]
        alone = len(self._scope.readers.get(x, ())) == 1 and x not in self._outputs | self._inside
        known = [name for name in names if name]
        if not alone or any(self._is_shared(name) for name in known):
            return False
        tensor = self._new.get(names[0]) or self._scope.constants[names[0]]
        bias = np.zeros_like(scale) if not names[1] else self._weights.array(self._scope.constants[names[1]])
        rows, column = self._weights.rows(copied(tensor)), scale.astype(np.float32)

        def read(start: int, stop: int) -> NDArray[np.float32]:
            piece = rows.read(start, stop)
            return np.asarray(piece * column[start:stop].reshape(-1, *[1] * (piece.ndim - 1)), np.float32)

        self._new[names[0]] = self._weights.tensor(names[0], replace(rows, read=read))
        name = names[1] or f"{names[0]}.bias"
        self._add(numpy_helper.from_array((bias * scale + shift).astype(np.float32), name))
        if not names[1]:
            node.input.extend([""] * (2 - len(node.input)))
            del node.input[2:]
            node.input.append(name)
        return True

    def _is_shared(self, name: str) -> bool:
        if name not in self._scope.constants or name in self._inside or name in self._new:
            return True
        return len(self._scope.readers.get(name, ())) != 1

    def _add(self, tensor: TensorProto) -> None:
        self._new[tensor.name] = tensor

    def store(self) -> None:
        """Put new values in the places of the old ones, and drop what is read no longer."""
        graph = self._model.graph
        read = {name for node in graph.node for name in (*node.input, *read_inside(node))} | self._outputs
        kept = {tensor.name: copied(tensor) for tensor in graph.initializer if tensor.name in read} | self._new
        del graph.initializer[:]
        graph.initializer.extend(kept.values())
