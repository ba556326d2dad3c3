"""Values of a model by name: constants, who makes and who reads them, and the types and shapes that inference finds."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgepress.onnx_graph.walk import attribute, attributes_of, graphs, opsets_of, read_by, result

SMALL = 1024
"""Elements of a constant that shape inference may look at: shapes, axes and ranges are small."""

LEFT_OUT = "left out"
"""In :func:`inferred`, the doc string of a weight whose bytes are in the model, and only left out there."""

_KEEPS_SHAPE = (  # onnxruntime's operators whose first output has the shape of their first input
    "RotaryEmbedding",
    "QuickGelu",
    "FastGelu",
    "BiasGelu",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "MultiHeadAttention",  # of queries, keys and values whose heads are equally large
)
_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


class Scope:
    """One graph of a model as it is written: its constants, and who makes and reads which value.

    ``constants`` are initializers and what Constant nodes give, those of the main graph included.
    """

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto | None = None) -> None:
        self.model = model
        self.graph = model.graph if graph is None else graph
        outer = () if self.graph is model.graph else model.graph.initializer
        self.constants = {tensor.name: tensor for tensor in (*outer, *self.graph.initializer)}
        self.makers = {output: node for node in self.graph.node for output in node.output if output}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.output and (tensor := constant_of(node)) is not None:
                self.constants[tensor.name] = tensor

    @cached_property
    def readers(self) -> Mapping[str, Sequence[onnx.NodeProto]]:
        """The nodes that read each value, each once; a node with graphs inside reads what these take from outside."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(read_by(node)):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def _shapes(self) -> Mapping[str, list[int | None]]:
        return known_shapes(self.model)

    def shape(self, name: str) -> list[int | None] | None:
        """The shape of a value as far as it is known, None when not even its rank is."""
        return self._shapes.get(name)

    @cached_property
    def _types(self) -> Mapping[str, int]:
        found = inferred(self.model, stand_ins=True)
        values = (value for graph in graphs(found.graph) for value in (*graph.input, *graph.output, *graph.value_info))
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        return types | {tensor.name: tensor.data_type for tensor in self.constants.values()}

    def type(self, name: str) -> int | None:
        """The element type of a value (``TensorProto``'s number), None when it is not known."""
        return self._types.get(name) or None


def constant_of(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor that a Constant node gives, None when that is text or sparse."""
    attributes = attributes_of(node)
    name, value = next(iter(attributes.items()), ("", None))
    if name == "value" and isinstance(value, TensorProto):
        tensor = TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    return numpy_helper.from_array(np.array(value, _NUMBERS[name]), node.output[0]) if name in _NUMBERS else None


def elements(tensor: TensorProto) -> int:
    """How many numbers a tensor has."""
    return math.prod(tensor.dims)


def known_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """The shape of every value that inference finds, past onnxruntime's own norms, activations and rotary embedding.

    A dimension that is not known is None.
    """
    found: dict[str, list[int | None]] = {}
    for graph in graphs(inferred(model, stand_ins=True).graph):
        for tensor in graph.initializer:
            found[tensor.name] = list(tensor.dims)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    return found


def named_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """The shape of every value of the main graph whose dimensions all have a number or a name; equal ones are equal.

    What is read as by :func:`known_shapes`; a name that inference made up stands for one dimension as a given one does.
    """
    found = inferred(model, stand_ins=True).graph
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*found.input, *found.value_info, *found.output)}
    named = {name: tuple(dim.dim_value or dim.dim_param for dim in own) for name, own in dims.items()}
    return {name: own for name, own in named.items() if own and all(own)}


def inferred(model: onnx.ModelProto, *, stand_ins: bool = False) -> onnx.ModelProto:
    """A copy with the types and shapes that onnx finds, without the bytes of weights; as it is when onnx gives up.

    With ``stand_ins`` Identity stands for onnxruntime's operators that keep a shape, which onnx does not know, and a
    third of the projection for its Attention.
    """
    light = _without_weights(model)
    if stand_ins:
        version = opsets_of(light).get("", 1)
        for graph in graphs(light.graph):
            nodes = [stand_in for node in graph.node for stand_in in _stand_ins(node, version)]
            del graph.node[:]
            graph.node.extend(nodes)
    try:
        return onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # whatever the C++ code raises on a model that does not fit together
        return light


def _stand_ins(node: onnx.NodeProto, version: int) -> list[onnx.NodeProto]:
    if node.domain == "com.microsoft" and node.op_type == "Attention" and not attribute(node, "qkv_hidden_sizes"):
        made, parts = f"{node.output[0]}.projected", [node.output[0], *(f"{node.output[0]}.{i}" for i in (1, 2))]
        split = onnx.helper.make_node("Split", [made], parts, axis=-1)
        if version >= 18:
            split.attribute.append(onnx.helper.make_attribute("num_outputs", 3))
        return [onnx.helper.make_node("MatMul", node.input[:2], [made]), split]
    if node.op_type not in _KEEPS_SHAPE:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        return [copy]
    outputs = [name for name in (result(node, 0), result(node, 3)) if name]  # 3 is the sum that Skip… gives besides
    return [onnx.helper.make_node("Identity", node.input[:1], [name]) for name in outputs]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto()
    for name, value in model.ListFields():
        if name.name not in {"graph", "functions", "training_info"}:
            _set(light, name.name, value)
    for name, value in model.graph.ListFields():
        if name.name != "initializer":
            _set(light.graph, name.name, value)
    for tensor in model.graph.initializer:
        copy = light.graph.initializer.add()
        if elements(tensor) <= SMALL:
            copy.CopyFrom(tensor)
        else:
            copy.name, copy.data_type, copy.data_location = tensor.name, tensor.data_type, TensorProto.EXTERNAL
            copy.dims.extend(tensor.dims)
            if tensor.data_location != TensorProto.EXTERNAL:
                copy.doc_string = LEFT_OUT
    return light


def _set(message: Any, name: str, value: Any) -> None:
    if hasattr(value, "extend") or hasattr(value, "add"):
        getattr(message, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)
