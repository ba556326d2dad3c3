"""What the exporter writes, made what kernels and people like: constants folded, norms and attention whole, names kept.

onnx-ir's and onnxscript's own passes do it, but for weights: these read and copy each weight that a Transpose stands
before, and call it ``val_93``. Here such a weight is made when it is written, and has the name of what it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

_ARRANGED = frozenset(("Transpose", "Reshape", "Slice", "Concat", "Unsqueeze", "Squeeze", "Expand", "Cast", "Identity"))
"""Operators that move weights and do not compute with them."""

_ROUNDS = 2  # what one folds, another fuses


def tidy(model: ir.Model) -> None:
    """Fold, fuse and name, in place; what the graph computes stays."""
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter

    common.InlinePass()(model)
    cut_by_slices(model)
    for _ in range(_ROUNDS):
        arrange_weights(model)
        optimizer.fold_constants(model, should_fold=lambda node: False if _moves_weights(node) else None)
        drop_zero_biases(model)
        rewriter.rewrite(model)
    for one in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        common.ShapeInferencePass(),
        common.ClearMetadataAndDocStringPass(),
        common.RemoveUnusedNodesPass(),
    ):
        one(model)
    keep_zeros_before_maxima(model)
    spread_masks(model)
    _shorten_names(model.graph)


def cut_by_slices(model: ir.Model) -> int:
    """Take pieces of a computed size with Slice; return how many sequences of pieces that were.

    onnxscript 0.7 does not fold the sequence that they are written as, and fails where its size is a computed scalar.

    ::

        x, size ─ SplitToSequence ─ SequenceAt (·, i)   →   x ─ Slice (i · size, (i + 1) · size)
    """
    import onnx_ir

    graph, changes = model.graph, 0
    for node in [one for one in graph if one.op_type == "SplitToSequence" and len(one.inputs) > 1]:
        whole, size = node.inputs
        readers = [user for user, _ in node.outputs[0].uses()]
        places = [_constant(user.inputs[1]) if user.op_type == "SequenceAt" else None for user in readers]
        if _constant(size) is not None or size is None or size.shape is None or len(size.shape) != 0:
            continue
        if None in places or node.outputs[0].is_graph_output():
            continue
        numbers = [int(place.numpy()) for place in places if place is not None]
        if min(numbers, default=-1) < 0:
            continue
        name = node.outputs[0].name

        def constant(what: str, number: int, name: str | None = name) -> ir.Value:
            tensor = onnx_ir.tensor(np.array([number], np.int64), name=f"{name}.{what}")
            kind = onnx_ir.TensorType(onnx_ir.DataType.INT64)
            made = onnx_ir.Value(name=tensor.name, shape=onnx_ir.Shape((1,)), type=kind, const_value=tensor)
            graph.register_initializer(made)
            return made

        row = onnx_ir.node("Reshape", [size, constant("one", 1)])
        row.outputs[0].name = f"{name}.size"
        graph.insert_before(node, row)
        axis = constant("axis", node.attributes.get_int("axis", 0))
        for index, (reader, number) in enumerate(zip(readers, numbers, strict=True)):
            ends = [
                onnx_ir.node("Mul", [row.outputs[0], constant(f"{index}.{what}", at)])
                for what, at in (("first", number), ("last", number + 1))
            ]
            for end, what in zip(ends, ("from", "to"), strict=True):
                end.outputs[0].name = f"{name}.{index}.{what}"
            piece = onnx_ir.node("Slice", [whole, *(end.outputs[0] for end in ends), axis])
            piece.outputs[0].type, piece.outputs[0].shape = reader.outputs[0].type, reader.outputs[0].shape
            graph.insert_before(reader, [*ends, piece])
            _put_in_place(graph, reader, piece)
        graph.remove(node, safe=True)
        changes += 1
    return changes


def _put_in_place(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Have all that read what ``old`` gives read what ``new`` gives, under the same name."""
    from onnx_ir import convenience

    new.outputs[0].name, name = None, old.outputs[0].name
    convenience.replace_all_uses_with(old.outputs[0], new.outputs[0], replace_graph_outputs=True)
    graph.remove(old, safe=True)
    new.outputs[0].name = name


def drop_zero_biases(model: ir.Model) -> int:
    """Take away the zeros that the exporter adds to convolutions without a bias; return how many.

    They would keep a norm from going into the convolution, as all convolutions of a width share them.
    """
    changes = 0
    for node in model.graph:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2:
            bias = _constant(node.inputs[2])
            if bias is not None and not np.any(bias.numpy()):
                node.resize_inputs(2)
                changes += 1
    return changes


def keep_zeros_before_maxima(model: ir.Model) -> int:
    """Pad with the least normal number where a MaxPool follows a Pad of zeros; return how many that were.

    onnxruntime 1.31 moves a Pad of exact zeros into the MaxPool, whose own padding never is the largest: where all
    values beside it are negative, that changes the result (its rule Pad_Fusion; onnxsim has the same fault, issue 290).
    """
    import onnx_ir

    graph, changes = model.graph, 0
    for node in list(graph):
        before_maximum = any(user.op_type == "MaxPool" for output in node.outputs for user, _ in output.uses())
        if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant" or not before_maximum:
            continue
        given = node.inputs[2] if len(node.inputs) > 2 else None
        value, kind = _constant(given), node.inputs[0].dtype if node.inputs[0] is not None else None
        if kind != onnx_ir.DataType.FLOAT or (given is not None and (value is None or np.any(value.numpy()))):
            continue
        name = f"{node.outputs[0].name}.zero"
        least = onnx_ir.tensor(np.array(np.finfo(np.float32).tiny), name=name)
        made = onnx_ir.Value(name=name, shape=onnx_ir.Shape(()), type=onnx_ir.TensorType(kind), const_value=least)
        graph.register_initializer(made)
        node.resize_inputs(max(3, len(node.inputs)))
        node.replace_input_with(2, made)
        changes += 1
    return changes


def spread_masks(model: ir.Model) -> int:
    """Give masks of Attention that are alike for all queries a row for each query; return how many nodes had such one.

    The operator broadcasts them, and onnxruntime 1.31 refuses: "inconsistent q_sequence_length".

    ::

        mask (…, 1, keys) ─────────────────────────────┐
        query (…, queries, ·) ─ Shape ─ Concat (·, 1) ─┴ Expand ─ Attention
    """
    import onnx_ir

    graph, made = model.graph, dict[tuple[str | None, object], onnx_ir.Value]()
    found = [node for node in graph if node.op_type == "Attention" and len(node.inputs) > 3]
    changes = 0
    for node in found:
        query, mask = node.inputs[0], node.inputs[3]
        if query is None or mask is None or query.shape is None or mask.shape is None or len(mask.shape) < 2:
            continue
        if mask.shape[-2] != 1 or query.shape[-2] == 1:
            continue
        key = mask.name, str(query.shape[-2])
        if key not in made:
            one = onnx_ir.tensor(np.array([1], np.int64), name=f"{mask.name}.one")
            last = onnx_ir.Value(
                name=one.name,
                shape=onnx_ir.Shape((1,)),
                type=onnx_ir.TensorType(onnx_ir.DataType.INT64),
                const_value=one,
            )
            graph.register_initializer(last)
            length = onnx_ir.node("Shape", [query], {"start": -2, "end": -1})
            rows = onnx_ir.node("Concat", [length.outputs[0], last], {"axis": 0})
            spread = onnx_ir.node("Expand", [mask, rows.outputs[0]])
            for part, what in ((length, "length"), (rows, "rows"), (spread, "spread")):
                part.outputs[0].name = f"{mask.name}.{what}"
            spread.outputs[0].type = mask.type
            spread.outputs[0].shape = onnx_ir.Shape([*mask.shape[:-2], query.shape[-2], mask.shape[-1]])
            graph.insert_before(node, [length, rows, spread])
            made[key] = spread.outputs[0]
        node.replace_input_with(3, made[key])
        changes += 1
    return changes


def _shorten_names(graph: ir.Graph) -> None:
    """Have what was made of a weight that is gone bear its name, and what was made beside it say by what."""
    for name, value in list(graph.initializers.items()):
        plain = name.partition(" ")[0]
        if plain != name:
            del graph.initializers[name]
            value.name = name.replace(" ", ".") if plain in graph.initializers else plain
            graph.register_initializer(value)


def arrange_weights(model: ir.Model) -> int:
    """Have what is only moved of weights be weights, made when they are written; return how many nodes that were.

    A weight that nothing else reads gives its name to what is made of it.
    """
    graph, changes = model.graph, 0
    for node in list(graph):
        if node.domain or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        sources = [_constant(value) for value in node.inputs]
        if _moves_weights(node) and None not in sources:
            _replace(graph, node, [source for source in sources if source is not None])
            changes += 1
    return changes


def _moves_weights(node: ir.Node) -> bool:
    return node.op_type in _ARRANGED and any(value is not None and value.is_initializer() for value in node.inputs)


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that a value is, None for a computed or absent one."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant":
        return None
    held = node.attributes.get("value")
    return None if held is None else held.as_tensor()


def _replace(graph: ir.Graph, node: ir.Node, sources: Sequence[ir.TensorProtocol]) -> None:
    import onnx_ir
    from onnx_ir import convenience

    shaped = _computed(node, [_without_values(source) for source in sources])
    weights = [value for value in node.inputs if value is not None and value.is_initializer()]
    name, known = weights[0].name or "", graph.initializers
    if len(weights[0].uses()) > 1:
        number = 0
        while (name := f"{weights[0].name} {node.op_type.lower()}{number or ''}") in known:
            number += 1
    made = onnx_ir.LazyTensor(
        lambda: onnx_ir.tensor(np.asarray(_computed(node, [source.numpy() for source in sources]), order="C")),
        dtype=onnx_ir.DataType.from_numpy(shaped.dtype),
        shape=onnx_ir.Shape(shaped.shape),
        name=name,
    )
    replacement = onnx_ir.Value(name=name, shape=made.shape, type=onnx_ir.TensorType(made.dtype), const_value=made)
    convenience.replace_all_uses_with(node.outputs[0], replacement)
    graph.remove(node, safe=True)
    for weight in {id(weight): weight for weight in weights if not weight.uses()}.values():
        known.pop(weight.name or "")
    graph.register_initializer(replacement)


def _without_values(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """An array of the shape and type of a weight, in the memory of one element; what is no float is read."""
    array_type = tensor.dtype.numpy()
    if not np.issubdtype(array_type, np.floating):
        return tensor.numpy()
    return np.broadcast_to(np.zeros((), array_type), tuple(tensor.shape.numpy()))


def _computed(node: ir.Node, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """What one node makes of constants, by onnx's reference evaluator."""
    import onnx
    import onnx_ir
    from onnx.reference import ReferenceEvaluator

    names = [f"in_{index}" for index, _ in enumerate(arrays)]
    proto = onnx_ir.to_proto(node)
    del proto.input[:]
    proto.input.extend(names)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, arrays, strict=True)
    ]
    graph = onnx.helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=proto.output[0])])
    one = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    outputs: Any = ReferenceEvaluator(one).run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(outputs[0])
