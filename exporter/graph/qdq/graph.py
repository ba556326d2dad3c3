"""Reading an ONNX model for quantization: its constants, which values are float32, who reads what."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.exporter.graph.qdq.roles import BATCH_NORM, Ties
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.values import Scope, inferred
from edgepress.onnx_graph.walk import read_inside

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")


class FloatModel(Scope):
    """A float32 model in a file. Weights in external data are read one at a time, when asked for.

    ``nodes`` are in order, without Constants, which are among ``constants``.

    Raises:
        InputError: it cannot be read, is quantized already, or has operators that must be folded first.

    """

    def __init__(self, path: Path) -> None:
        super().__init__(parse_model(path))
        self.path, self.tensors = path, TensorReader(path)
        self.nodes = [node for node in self.graph.node if node.op_type != "Constant"]
        self.makers = {output: node for node in self.nodes for output in node.output if output}
        self.inputs = [value.name for value in self.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in self.graph.output]
        found = inferred(self.model).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*found.value_info, *found.input, *found.output)}
        types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self._check(types)
        self.is_float = {name: kind == TensorProto.FLOAT for name, kind in types.items()}
        self.ties = Ties(self.nodes, self.is_float)
        self.read_inside = {name for node in self.nodes for name in read_inside(node)} & set(self.constants)

    def _check(self, types: dict[str, int]) -> None:
        for node in self.graph.node:
            if node.op_type == "Constant" and node.output[0] not in self.constants:
                kind = node.attribute[0].name if node.attribute else "nothing"
                raise InputError(f"{self.path}: Constant {node.name} holds {kind}, which cannot be quantized")
            if node.op_type in _QUANTIZED:
                raise InputError(f"{self.path} is quantized already ({node.op_type} {node.name}); give the float model")
            if node.op_type == BATCH_NORM:
                raise InputError(f"{self.path}: {BATCH_NORM} {node.name} is not folded into the layer before it")
            for name in node.output:
                if name and name not in types:
                    raise InputError(
                        f"{self.path}: the type of {name}, an output of {node.op_type} {node.name}, is not known; "
                        "turn the model into plain ONNX operators first"
                    )

    def value(self, name: str) -> NDArray[np.generic]:
        """A constant's value, read from its file if need be."""
        return self.tensors.array(self.constants[name])

    def activations(self) -> list[str]:
        """The float values that nodes make or that come in, in order."""
        made = [*self.inputs, *(name for node in self.nodes for name in node.output)]
        return [name for name in made if self.is_float.get(name)]
