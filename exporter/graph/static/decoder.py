"""A decoder's graph → two static ones, prefill and decode, as compilers of accelerators take them.

Inputs: ``input_ids`` int32 (1, S), ``position_ids`` int32 (1, S), ``mask`` float32 (1, 1, S, P + S) which is added to
scores, ``past_key_values.{i}.key`` and ``.value`` float32 (1, kv_heads, P, head_dim). Outputs: ``logits`` float32
(1, S, vocabulary) and ``present.{i}.key``/``.value`` (1, kv_heads, S, head_dim), the new rows only. S is 1 for decode;
P is the same for both, so that they share the cache's memory, and their weights are one file.

The cache is a set of slots: whoever runs the graph writes new rows into free ones and opens them in the mask, and as
positions are an input, the order of slots means nothing. Layers with a sliding window have a mask of their own,
``mask.sliding``. A graph has only the inputs that it reads. What the runner must know besides is in the model's
metadata, under :data:`METADATA`, as JSON.

Every weight becomes float32, dequantized exactly; what a recipe rounds while the model runs is not rounded here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgepress import __version__
from edgepress.errors import InputError
from edgepress.exporter.graph.attention import attend, merge_heads
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, remove_unused, require_opset, rewrite, set_nodes
from edgepress.exporter.graph.passes import STATIC, Context, PassOrder
from edgepress.exporter.graph.passes.decompose_attention import GroupQuery, read_group_query
from edgepress.exporter.graph.primitives import LOGITS_START, LOGITS_STOP
from edgepress.exporter.graph.rotary import LONG_FROM, check_context, restore_tables
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.tensors import Array, Rows
from edgepress.onnx_graph.values import Scope, inferred
from edgepress.onnx_graph.walk import all_nodes, normal_domain, operand

METADATA = "edgepress.static"
PREFILL_FILE, DECODE_FILE, DATA_FILE = "prefill.onnx", "decode.onnx", "weights.bin"
SEQUENCE = 64  # tokens of a prefill call
CLOSED = -1e4  # what closes a slot in the mask: far below any score, and a number in float16 too

OPSET = 23  # the first with RMSNormalization
POSITIONS, _MASK, _SLIDING = "position_ids", "mask", "mask.sliding"
BEFORE = PassOrder(
    (
        *("float32", "fold-constants", "drop-rounding", "fold-constants", "plain-matmul"),
        *("decompose-skip-norm", "plain-norm", "plain-activations"),
    )
)
"""What is done to a decoder's graph before its attention is made static."""

AFTER = BEFORE.then(
    *("plain-rotary", "fold-constants", "flatten-norm", "merge-moves"),
    given=(STATIC, f"{CONTRIB}.GroupQueryAttention"),
)
"""What is done after it, and after inputs and outputs have their shapes."""


@dataclass(frozen=True)
class Shapes:
    """``sequence`` tokens a call, S, and ``slots`` of the cache, P: a text may have P + 1 tokens."""

    sequence: int
    slots: int


@dataclass(frozen=True)
class Facts:
    """What the runner must know of a static graph; written into its metadata as JSON.

    ``windows`` gives each mask its window, None for one that sees all of the past. ``closed`` closes a slot. A longrope
    graph reads its tables ``long_rows`` further on when a text has more than ``long_from`` tokens.
    """

    windows: dict[str, int | None]
    closed: float = CLOSED
    long_from: int | None = None
    long_rows: int = 0


def write_static(
    model: Path,
    out: Path,
    *,
    context: int,
    sequence: int = SEQUENCE,
    closed: float = CLOSED,
    further: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write the static graphs of a decoder, ``model``, and their weights into the directory ``out``; return the paths.

    Weights pass through in pieces of 32 MiB, so memory does not grow with the model.

    Args:
        model: a bundle's ``model.onnx``, or another decoder with GroupQueryAttention.
        out: an existing directory; :func:`edgepress.disk.files.atomic_directory` makes one that is whole or not there.
        context: tokens that a text may have; the cache has one slot fewer.
        sequence: tokens of a prefill call.
        closed: what closes a slot in the mask.
        further: passes that a provider needs besides, such as ``decompose-norm`` for OpenVINO.

    Raises:
        InputError: the graph has something without a static form; the message names the node.

    """
    if context < 2 or sequence < 1:
        raise InputError(f"context is {context} and sequence {sequence}; they must be at least 2 and 1")
    weights = Weights(model)
    paths = (out / PREFILL_FILE, out / DECODE_FILE)
    made = [
        static_decoder(parse_model(model), weights, Shapes(length, context - 1), closed=closed, further=further)
        for length in (min(sequence, context), 1)
    ]
    weights.write(made, out / DATA_FILE)
    for path, graph in zip(paths, made, strict=True):
        path.write_bytes(graph.SerializeToString(deterministic=True))
    return paths


def static_decoder(
    model: onnx.ModelProto,
    weights: Weights,
    shapes: Shapes,
    *,
    closed: float = CLOSED,
    further: Sequence[str] = (),
    fixed: Mapping[str, onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """Turn a decoder's graph, with batches and lengths of any size, into a static one, in place, and return it.

    ``fixed`` are inputs that are no states of the target, as :mod:`.encoder_decoder` has them: with it, what is added
    to scores counts slots already.

    Raises:
        InputError: the graph has something without a static form; the message names the node.

    """
    last = AFTER.then(*further)
    _keep_all_positions(model)
    check_context(model, shapes.slots + 1)
    limit = restore_tables(model, weights, shapes.slots + 1, POSITIONS)
    long = _take_positions(model, weights, shapes.slots + 1)
    if limit is not None:
        long = _Long(limit, shapes.slots + 1)
    BEFORE.run(model, Context(weights=weights))
    windows, caches = _make_attention_static(model, weights, shapes, biased=fixed is not None)
    _set_values(model, shapes, windows, caches, fixed or {})
    AFTER.run(model, Context(weights=weights))
    last.run(model, Context(weights=weights))
    _cut_tables(model, weights, shapes.slots + 1, long)
    require_opset(model, OPSET)
    facts = Facts(windows, closed)
    finish(model)
    _check_logits(model, shapes)
    _tell(model, replace(facts, long_from=long.limit, long_rows=shapes.slots + 1) if long else facts)
    return model


def _keep_all_positions(model: onnx.ModelProto) -> None:
    """Pass by the Slices that leave only the last position of a call: the caller knows which of them is a token."""
    for node in model.graph.node:
        if node.op_type == "Slice" and (operand(node, 1) == LOGITS_START or operand(node, 2) == LOGITS_STOP):
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, node.name))


# ---- positions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Long:
    """longrope: texts of more than ``limit`` tokens read tables ``rows`` further on."""

    limit: int
    rows: int


def _take_positions(model: onnx.ModelProto, weights: Weights, context: int) -> _Long | None:
    """Make ``position_ids`` an input instead of what the graph computes, and say which rows longrope reads.

    The choice between longrope's tables of a graph that stores them, as edgepress did before it computed them, depends
    on the length of the text and becomes the caller's::

        total > long_from ─ Cast ─ Mul(rows) ─ Add(position_ids) = ids        →        position_ids
    """
    graph = model.graph
    scope = Scope(model)
    readers, constants = scope.readers.get(POSITIONS, []), scope.constants
    chosen, long = [], None
    if LONG_FROM in constants:
        chosen = [node for node in readers if node.op_type == "Add"]
        limit = int(weights.array(constants[LONG_FROM]))
        rows = {_rows_of_a_table(scope, node, weights) for node in chosen}
        if len(rows) != 1 or len(chosen) != len(readers):
            raise InputError(
                "layers with longrope and layers without it, or with another one, read the same positions; "
                "this model has no static form"
            )
        long = _Long(limit, rows.pop()) if limit < context else None
    ids = {node.output[0] for node in chosen}
    kept = [node for node in graph.node if POSITIONS not in node.output and node.output[0] not in ids]
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = POSITIONS if name in ids else name
    set_nodes(graph, kept)
    if all(value.name != POSITIONS for value in graph.input):
        graph.input.append(helper.make_tensor_value_info(POSITIONS, TensorProto.INT64, ["batch", "sequence"]))
    return long


def _rows_of_a_table(scope: Scope, add: onnx.NodeProto, weights: Weights) -> int:
    """The constant that the product has which ``add`` adds to the positions."""
    product = next(scope.makers[name] for name in add.input if name != POSITIONS)
    return int(weights.array(next(scope.constants[name] for name in product.input if name in scope.constants)))


def _cut_tables(model: onnx.ModelProto, weights: Weights, context: int, long: _Long | None) -> None:
    """Keep the rows of the tables that positions below ``context`` read: of longrope, those of both halves."""
    constants = Scope(model).constants
    cut: dict[str, str] = {}
    for node in model.graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" and node.input[1] == POSITIONS else None
        if table is None:
            continue
        if table.name not in cut:
            whole = weights.rows(table)
            if context > whole.dims[0]:
                raise InputError(f"a context of {context} is asked for, and {table.name} has {whole.dims[0]} positions")
            starts = (0, long.rows) if long else (0,)
            cut[table.name] = f"{table.name}.first_{context}"
            model.graph.initializer.append(weights.tensor(cut[table.name], _selected(whole, starts, context)))
        node.input[0] = cut[table.name]
    remove_unused(model)


def _selected(whole: Rows, starts: Sequence[int], count: int) -> Rows:
    """``count`` rows from each of ``starts`` on, one block below the other."""

    def read(start: int, stop: int) -> Array:
        pieces = []
        for block, first in enumerate(starts):
            low, high = max(start - block * count, 0), min(stop - block * count, count)
            if low < high:
                pieces.append(whole.read(first + low, first + high))
        return np.concatenate(pieces)

    return Rows((len(starts) * count, *whole.dims[1:]), whole.dtype, read)


# ---- attention ------------------------------------------------------------------------------------------------------


def _make_attention_static(
    model: onnx.ModelProto, weights: Weights, shapes: Shapes, *, biased: bool
) -> tuple[dict[str, int | None], dict[str, list[int]]]:
    """Replace every GroupQueryAttention.

    Return the masks that the graph now reads, each with its window, and the shapes of cache inputs and outputs.
    """
    windows: dict[str, int | None] = {}
    caches: dict[str, list[int]] = {}
    inputs = {value.name for value in model.graph.input}

    def rule(editor: Editor, node: onnx.NodeProto) -> bool:
        if not set(node.input[3:5]) <= inputs:
            raise InputError(f"{node.output[0]}: its past is not an input of the graph, so it has no static form")
        read = read_group_query(editor, node)
        if not read.causal or (read.bias and not biased):
            raise InputError(f"{node.output[0]}: GroupQueryAttention with a bias or without a mask has no static form")
        window = read.window if read.window is not None and read.window <= shapes.slots else None
        mask = _MASK if window is None else _SLIDING
        if windows.setdefault(mask, window) != window:
            raise InputError(
                f"{node.output[0]} has a window of {window} tokens and others have {windows[mask]}; "
                "layers with different windows have no static form"
            )
        caches.update((name, [1, read.kv_heads, shapes.slots, read.head_dim]) for name in read.past)
        caches.update((name, [1, read.kv_heads, shapes.sequence, read.head_dim]) for name in read.present)
        _attend(editor, read, mask, node.output[0])
        return True

    if not rewrite(model, weights, {(CONTRIB, "GroupQueryAttention"): rule}):
        raise InputError("the model has no GroupQueryAttention, so it is no decoder that has a static form")
    return windows, caches


def _attend(editor: Editor, read: GroupQuery, mask: str, y: str) -> None:
    """Attention over the slots and the new rows, which are also outputs::

    q ─ (rotary) ─ heads ─────────────────────────────────┐
    k ─ (rotary) ─ heads ┬ Concat(past_key, ·) ───────────┤
    v ─ heads ──────────┬┼ Concat(past_value, ·) ─────────┴ attend(+ mask) ─ merge heads
                        └┴ present_value, present_key
    """
    q, key, value = read.by_head(editor, POSITIONS, (f"{y}/q_heads", *read.present))
    keys = editor.emit("Concat", [read.past[0], key], f"{y}/keys", axis=2)
    values = editor.emit("Concat", [read.past[1], value], f"{y}/values", axis=2)
    merge_heads(editor, attend(editor, q, (keys, values), read.scoring(mask), f"{y}/attended"), y)


# ---- inputs and outputs ---------------------------------------------------------------------------------------------


def _set_values(
    model: onnx.ModelProto,
    shapes: Shapes,
    windows: Mapping[str, int | None],
    caches: Mapping[str, list[int]],
    fixed: Mapping[str, onnx.ValueInfoProto],
) -> None:
    """Give inputs and outputs their static shapes, and leave out those that nothing reads any more."""
    graph = model.graph
    remove_unused(model)
    read = {name for node in graph.node for name in node.input}
    call = [1, shapes.sequence]
    known = {
        "input_ids": helper.make_tensor_value_info("input_ids", TensorProto.INT32, call),
        POSITIONS: helper.make_tensor_value_info(POSITIONS, TensorProto.INT32, call),
    }
    for mask in windows:
        size = [1, 1, shapes.sequence, shapes.slots + shapes.sequence]
        known[mask] = helper.make_tensor_value_info(mask, TensorProto.FLOAT, size)
    known |= fixed
    for value in graph.input:
        if value.name in caches:
            known[value.name] = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, caches[value.name])
        elif value.name in read and value.name not in known:
            raise InputError(f"input {value.name} has no place in a static decoder, and nodes read it")
    del graph.input[:]
    graph.input.extend(value for value in known.values() if value.name in read)
    for index, value in enumerate(graph.output):
        if value.name in caches:
            cache = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, caches[value.name])
            graph.output[index].CopyFrom(cache)
        else:
            for dim, extent in zip(value.type.tensor_type.shape.dim, call, strict=False):
                dim.dim_value = extent
    del graph.value_info[:]


def finish(model: onnx.ModelProto) -> None:
    """Write down shapes, and who made the model; InputError when a node is not plain or a shape not static."""
    for node in all_nodes(model.graph.node):
        if normal_domain(node.domain):
            raise InputError(f"{node.name or node.output[0]}: {node.domain}.{node.op_type} has no plain form here")
    found = inferred(model)
    for value in (*found.graph.value_info, *found.graph.output):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if len(shape) != len(value.type.tensor_type.shape.dim):
            raise InputError(f"{value.name} has no static shape; the graph computes it from what it is fed")
    del model.graph.value_info[:]
    model.graph.value_info.extend(found.graph.value_info)
    del model.graph.output[:]
    model.graph.output.extend(found.graph.output)
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "edgepress", __version__
    kept = [entry for entry in model.opset_import if entry.domain != CONTRIB]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid(entry.domain, entry.version) for entry in kept])


def _check_logits(model: onnx.ModelProto, shapes: Shapes) -> None:
    outputs = {value.name: value for value in model.graph.output}
    rows = outputs["logits"].type.tensor_type.shape.dim[1].dim_value if "logits" in outputs else 0
    if rows != shapes.sequence:
        raise InputError(f"logits has {rows} rows for {shapes.sequence} tokens; export the model with all of them")


def _tell(model: onnx.ModelProto, facts: Facts) -> None:
    """Write the facts into the model's metadata."""
    helper.set_model_props(model, {METADATA: json.dumps(asdict(facts), sort_keys=True)})
