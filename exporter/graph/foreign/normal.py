"""A float32 graph as other tools write it → the same function, with every weight an initializer of the main graph.

::

    Constant, initializers of If and Loop bodies ─► initializers of the main graph, each with a name of its own
    float16 and bfloat16                         ─► float32
    opset below 13                               ─► 17, by onnx's converter
    BatchNormalization                           ─► part of the convolution before it, else Mul and Add
    parts of a layer norm                        ─► LayerNormalization
    heads moved apart for Attention              ─► Attention that finds them itself

Weights stay where they lie: their bytes are read when they are written.
"""

from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from edgepress.errors import InputError
from edgepress.exporter.graph.editing import copied, pass_by, set_nodes
from edgepress.exporter.graph.foreign.batch_norms import fold_batch_norms
from edgepress.exporter.graph.foreign.layer_norms import fuse_layer_norms
from edgepress.exporter.graph.passes import Context, find_pass
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.values import constant_of, elements
from edgepress.onnx_graph.walk import all_nodes, attribute, graphs, operand, opset, subgraphs, tensors

SMALL = 16
"""Elements up to which a constant stays where it is written: shapes, axes, scalars."""

_OLDEST, _CONVERTED = 13, 17  # axes of Squeeze and Unsqueeze are inputs since 13; all of today's runtimes read 17
_IR_WITH_CONSTANTS = 4  # the first in which initializers need not be inputs
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "QLinearConv", "QMoE")


def read_normal(path: Path) -> tuple[onnx.ModelProto, Weights]:
    """Read a float model safely and bring it into this form; and where its weights lie.

    Raises:
        InputError: it cannot be read, has nodes that train or quantize, sparse weights, or operators that are too old
            and cannot be converted.

    """
    model, weights = read_model(path), Weights(path)
    refuse_unusable(path, model)
    model = _converted(path, model, weights)
    _lift(model)
    _drop_default_inputs(model)
    pass_by(model)
    if any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer):
        find_pass("float32").apply(model, Context(weights=weights))
    fold_batch_norms(model, weights)
    fuse_layer_norms(model, weights)
    find_pass("heads-together").apply(model, Context(weights=weights))
    return model, weights


def write_normal(model: onnx.ModelProto, weights: Weights, path: Path) -> Path:
    """Write a model of this form to ``path``, its weights beside it, and return that."""
    whole = copied(model)
    weights.write([whole], path.with_name(f"{path.name}.data"))
    path.write_bytes(whole.SerializeToString(deterministic=True))
    return path


def refuse_unusable(path: Path, model: onnx.ModelProto) -> None:
    """Raise InputError when a model trains, is quantized already, or has sparse weights."""
    if model.training_info:
        raise InputError(f"{path} has training information, which nothing here runs; export the model for inference")
    if any(graph.sparse_initializer for graph in graphs(model.graph)):
        raise InputError(f"{path} has sparse initializers; store them dense")
    truths = _true_constants(model)
    for node in all_nodes(model.graph.node):
        if node.op_type in _QUANTIZED:
            raise InputError(
                f"{path} is quantized already: node {node.name or node.output[0]} is {node.op_type}; give the float "
                "model that it was made from"
            )
        if node.domain == "ai.onnx.preview.training" or node.op_type.endswith("Grad"):
            raise InputError(
                f"{path}: node {node.name or node.output[0]} is {node.op_type}, which trains; export the model for "
                "inference"
            )
        if _trains(node, truths):
            raise InputError(
                f"{path}: node {node.name or node.output[0]} is {node.op_type} in training mode, whose answers depend "
                "on what else is in a batch, or on chance; export the model for inference (model.eval() in torch)"
            )


def _true_constants(model: onnx.ModelProto) -> set[str]:
    """Names of constants that are one truth: true."""
    constants = (constant_of(node) for node in all_nodes(model.graph.node) if node.op_type == "Constant")
    held = (tensor for tensor in (*tensors(model), *constants) if tensor is not None)
    booleans = (tensor for tensor in held if tensor.data_type == TensorProto.BOOL and elements(tensor) == 1)
    return {tensor.name for tensor in booleans if numpy_helper.to_array(tensor).all()}


def _trains(node: onnx.NodeProto, truths: set[str]) -> bool:
    """Whether a BatchNormalization takes statistics of its batch, or a Dropout drops."""
    if node.domain:
        return False
    if node.op_type == "BatchNormalization":
        return bool(attribute(node, "training_mode", 0))
    return node.op_type == "Dropout" and operand(node, 2) in truths


def _converted(path: Path, model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """The model in an opset that the rest of the export knows."""
    if opset(model) >= _OLDEST:
        return model
    for tensor in tensors(model):
        tensor.CopyFrom(weights.inline(tensor))
    try:
        return onnx.version_converter.convert_version(model, _CONVERTED)
    except Exception as error:  # onnx raises RuntimeError and its own errors, with no common type
        words = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} has opset {opset(model)}, and onnx cannot convert it to {_CONVERTED}: {words}; export it again "
            f"in opset {_OLDEST} or later"
        ) from error


def _lift(model: onnx.ModelProto) -> None:
    """Make initializers of the main graph of all floats with more than a few elements, wherever they are constants."""
    made = Counter(
        name
        for graph in graphs(model.graph)
        for name in (
            *(tensor.name for tensor in graph.initializer),
            *(value.name for value in graph.input),
            *(output for node in graph.node for output in node.output),
        )
    )
    for graph in reversed(list(graphs(model.graph))):  # inner ones first, as nodes are copied with them
        given = {value.name for value in graph.output}
        renamed: dict[str, str] = {}
        kept = []
        for node in graph.node:
            tensor = constant_of(node) if node.op_type == "Constant" and node.output else None
            if tensor is None or not _is_weight(tensor) or tensor.name in given:
                kept.append(node)
            else:
                _move(model, tensor, made, renamed)
        if graph is not model.graph:
            inner = [tensor for tensor in graph.initializer if _is_weight(tensor) and tensor.name not in given]
            for tensor in inner:
                _move(model, tensor, made, renamed)
            rest = [copied(tensor) for tensor in graph.initializer if tensor.name not in {one.name for one in inner}]
            del graph.initializer[:]
            graph.initializer.extend(rest)
        if len(kept) != len(graph.node):
            set_nodes(graph, kept)
        _rename(graph, {old: new for old, new in renamed.items() if old != new})


def _is_weight(tensor: TensorProto) -> bool:
    return tensor.data_type in _FLOATS and elements(tensor) > SMALL


def _move(model: onnx.ModelProto, tensor: TensorProto, made: Counter[str], renamed: dict[str, str]) -> None:
    """Add a copy of a constant to the main graph, under a name that nothing else has."""
    name, number = tensor.name, 0
    while made[name] > (name == tensor.name):
        number += 1
        name = f"{tensor.name}.{number}"
    if name != tensor.name:
        made[name] += 1
    renamed[tensor.name] = name
    moved = copied(tensor)
    moved.name = name
    model.graph.initializer.append(moved)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename what nodes of a graph read, in the graphs inside them too unless these make it themselves."""
    if not names:
        return
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for _, inner in subgraphs(node):
            own = {tensor.name for tensor in inner.initializer} | {value.name for value in inner.input}
            own |= {output for one in inner.node for output in one.output}
            _rename(inner, {old: new for old, new in names.items() if old not in own})


def _drop_default_inputs(model: onnx.ModelProto) -> None:
    """Make constants of initializers that old files list among the inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [copied(value) for value in model.graph.input if value.name not in constants]
    if len(inputs) != len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _IR_WITH_CONSTANTS)
