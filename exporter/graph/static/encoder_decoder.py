"""The two graphs of an encoder-decoder → static ones, as compilers of accelerators take them.

``encoder.onnx`` reads a source of L positions, with the names and types of the bundle's own graph. Where sources have
any length, shorter ones are filled up, and ``source_mask`` float32 (1, 1, 1, L), which is added to scores, closes what
was filled up; what the encoder gives there means nothing.

``decoder.onnx`` is a decode graph of one token (:mod:`.decoder`) that reads the source's keys and values besides,
``encoded.{i}.key`` and ``.value`` (1, heads, L, head_dim), and the same mask. The slot of a token is its position:
distances that are added to scores (T5) are counted from that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.attention import Scoring, attend, merge_heads, split_heads, swap_heads
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, remove_unused, require_opset, rewrite, set_nodes
from edgepress.exporter.graph.models.encoder_decoder import KEYS_ROW
from edgepress.exporter.graph.passes import Context, PassOrder
from edgepress.exporter.graph.primitives import POSITIONS_ROW
from edgepress.exporter.graph.static.decoder import (
    BEFORE,
    DATA_FILE,
    OPSET,
    POSITIONS,
    Shapes,
    finish,
    static_decoder,
)
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.walk import attributes_of, operand
from edgepress.tasks.sequences import DECODER_FILE, ENCODER_FILE, SOURCE_MASK

SOURCE = "source"  # the axis that bundles' graphs have for positions of the source
_ATTENTION = (CONTRIB, "MultiHeadAttention")
_ENCODER = PassOrder(
    (
        *("bind-shapes", *BEFORE.names, "decompose-attention", "plain-rotary"),
        *("fold-constants", "flatten-norm", "merge-moves"),
    )
)


def write_static_pair(bundle: Path, out: Path, *, source: int | None, context: int) -> tuple[Path, Path]:
    """Write the static graphs of the bundle's encoder and decoder, and their weights, into the directory ``out``.

    Args:
        bundle: has ``encoder.onnx``, ``decoder.onnx`` and their weights.
        out: an existing directory.
        source: positions of a source where sources have any length, else None.
        context: tokens that a target may have.

    Raises:
        InputError: a graph has something without a static form; the message names the node.

    """
    weights = Weights(bundle / ENCODER_FILE)
    made = [
        static_encoder(parse_model(bundle / ENCODER_FILE), weights, source),
        static_target(parse_model(bundle / DECODER_FILE), weights, source, Shapes(1, context - 1)),
    ]
    weights.write(made, out / DATA_FILE)
    paths = out / ENCODER_FILE, out / DECODER_FILE
    for path, graph in zip(paths, made, strict=True):
        path.write_bytes(graph.SerializeToString(deterministic=True))
    return paths


def static_encoder(model: onnx.ModelProto, weights: Weights, source: int | None) -> onnx.ModelProto:
    """Give the encoder's graph fixed shapes and plain operators, in place, and return it."""
    if source is not None:
        _mask_attention(model, weights, source)
    _ENCODER.run(model, Context({} if source is None else {SOURCE: source}, weights))
    remove_unused(model)
    del model.graph.value_info[:]  # of values that are constants now, too
    require_opset(model, OPSET)
    finish(model)
    return model


def _mask_attention(model: onnx.ModelProto, weights: Weights, source: int) -> None:
    """Add ``source_mask`` to what attention adds to its scores."""

    def rule(editor: Editor, node: onnx.NodeProto) -> bool:
        bias = operand(node, 5)
        both = editor.emit("Add", [bias, SOURCE_MASK], f"{node.output[0]}/bias") if bias else SOURCE_MASK
        inputs = [*node.input, *[""] * (6 - len(node.input))]
        inputs[5] = both
        masked = helper.make_node(node.op_type, inputs, node.output, node.name, domain=node.domain)
        masked.attribute.extend(node.attribute)
        editor.nodes.append(masked)
        return True

    model.graph.input.append(_mask(source))
    rewrite(model, weights, {_ATTENTION: rule})


def _mask(source: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(SOURCE_MASK, TensorProto.FLOAT, [1, 1, 1, source])


def static_target(model: onnx.ModelProto, weights: Weights, source: int | None, shapes: Shapes) -> onnx.ModelProto:
    """Turn the decoder's graph into a decode graph of one token, in place, and return it.

    Raises:
        InputError: the graph has something without a static form; the message names the node.

    """
    read = _read_source(model, weights, source)
    _count_slots(model, shapes)
    return static_decoder(model, weights, shapes, fixed=read)


def _read_source(model: onnx.ModelProto, weights: Weights, source: int | None) -> dict[str, onnx.ValueInfoProto]:
    """Write attention to the source in plain operators; return the inputs that it reads, with their shapes::

    query ─ heads ──────────────────────┐
    encoded key, value ─────────────────┴ attend(+ source mask) ─ merge heads
    """
    inputs = {value.name: value for value in model.graph.input}
    read: dict[str, onnx.ValueInfoProto] = {}

    def rule(editor: Editor, node: onnx.NodeProto) -> bool:
        query, key, value = node.input[:3]
        y, attributes = node.output[0], attributes_of(node)
        dims = [inputs[name].type.tensor_type.shape.dim for name in (key, value)]
        sizes = [[int(dim.dim_value or source or 0) for dim in one] for one in dims]
        _, heads, _, head_dim = sizes[0]
        for name, shape in zip((key, value), sizes, strict=True):
            read[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        biases = () if source is None else (SOURCE_MASK,)
        q = swap_heads(editor, split_heads(editor, query, head_dim, f"{y}/apart"), f"{y}/heads")
        scoring = Scoring(heads, heads, attributes["scale"], biases=biases)
        merge_heads(editor, attend(editor, q, (key, value), scoring, f"{y}/attended"), y)
        return True

    rewrite(model, weights, {_ATTENTION: rule})
    if source is not None:
        read[SOURCE_MASK] = _mask(source)
        model.graph.input.append(_mask(source))
    return read


def _count_slots(model: onnx.ModelProto, shapes: Shapes) -> None:
    """Count distances from the position of a slot, which is its number, and of the tokens of the call, in int32::

    position_ids ─ Cast ─ Reshape (S,) ─┬ positions_row
    0 … P − 1 ──────────────────────────┴ Concat = keys_row
    """
    graph, made = model.graph, {POSITIONS, POSITIONS_ROW, KEYS_ROW}
    rest = [node for node in graph.node if not made & {*node.output}]
    if not any(KEYS_ROW in node.output for node in graph.node):
        return
    constants: dict[str, NDArray[Any]] = {
        f"{POSITIONS_ROW}.shape": np.array([shapes.sequence], np.int64),
        f"{KEYS_ROW}.slots": np.arange(shapes.slots, dtype=np.int32),
    }
    constants |= {
        name: numpy_helper.to_array(tensor).astype(np.int32)
        for tensor in graph.initializer
        for name in [tensor.name]
        if any(node.op_type == "Clip" and name in node.input for node in rest)
    }
    kept = [tensor for tensor in graph.initializer if tensor.name not in constants]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(value, name) for name, value in constants.items())])
    graph.input.append(helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, ["batch", "sequence"]))
    ids, row = f"{POSITIONS}.int32", POSITIONS_ROW
    rows = [
        helper.make_node("Cast", [POSITIONS], [ids], ids, to=TensorProto.INT32),
        helper.make_node("Reshape", [ids, f"{row}.shape"], [row], row),
        helper.make_node("Concat", [f"{KEYS_ROW}.slots", row], [KEYS_ROW], KEYS_ROW, axis=0),
    ]
    set_nodes(graph, [*rows, *rest])
    del graph.value_info[:]
