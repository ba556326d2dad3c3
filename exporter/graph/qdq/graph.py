"""Reading an ONNX model for quantization: its constants, which values are float32, who reads what."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, shape_inference

from edgepress.errors import InputError
from edgepress.exporter.graph.qdq.roles import BATCH_NORM, Ties
from edgepress.exporter.graph.weights import Weights, graphs

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")


class FloatModel:
    """A float32 model in a file. Weights in external data are read one at a time, when asked for.

    ``nodes`` are in order, without Constants, which are among ``constants``.

    Raises:
        InputError: it cannot be read, is quantized already, or has operators that must be folded first.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Shapes are inferred on a copy that has no weights.
            self.proto = shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
        except Exception as error:  # protobuf's and onnx's exceptions have no common type
            raise InputError(f"{path} cannot be read as an ONNX model: {error}") from error
        self._weights = Weights(path.parent)
        graph = self.proto.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node)
        self.nodes = [node for node in graph.node if node.op_type != "Constant"]
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        self._types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self._check()
        self.is_float = {name: kind == TensorProto.FLOAT for name, kind in self._types.items()}
        self.ties = Ties(self.nodes, self.is_float)
        # Graphs inside nodes (If, Loop, Scan) may read outer values.
        self.readers = Counter(name for inner in graphs(graph) for node in inner.node for name in set(node.input))
        self.read_inside = _read_by_inner(graph) & set(self.constants)

    def _check(self) -> None:
        for node in self.nodes:
            if node.op_type in _QUANTIZED:
                raise InputError(f"{self.path} is quantized already ({node.op_type} {node.name}); give the float model")
            if node.op_type == BATCH_NORM:
                raise InputError(f"{self.path}: {BATCH_NORM} {node.name} is not folded into the layer before it")
            for name in node.output:
                if name and name not in self._types:
                    raise InputError(
                        f"{self.path}: the type of {name}, an output of {node.op_type} {node.name}, is not known; "
                        "turn the model into plain ONNX operators first"
                    )

    def value(self, name: str) -> NDArray[np.generic]:
        """A constant's value, read from its file if need be."""
        return self._weights.array(self.constants[name])

    def inline(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """A tensor of this model with its bytes, wherever they lie."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        return numpy_helper.from_array(self._weights.array(tensor), tensor.name)

    def activations(self) -> list[str]:
        """The float values that nodes make or that come in, in order."""
        made = [*self.inputs, *(name for node in self.nodes for name in node.output)]
        return [name for name in made if self.is_float.get(name)]


def _read_by_inner(graph: onnx.GraphProto) -> set[str]:
    """What the graphs inside nodes read, or give as it is."""
    inner = list(graphs(graph))[1:]
    return {n for g in inner for n in (*(n for node in g.node for n in node.input), *(v.name for v in g.output))}


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """The tensor that a Constant node gives."""
    entry = node.attribute[0]
    if entry.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(entry.t)
        tensor.name = node.output[0]
        return tensor
    value = onnx.helper.get_attribute_value(entry)
    if entry.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise InputError(f"Constant {node.name} holds {entry.name}, which cannot be quantized")
    return numpy_helper.from_array(np.array(value, np.float32 if "float" in entry.name else np.int64), node.output[0])
