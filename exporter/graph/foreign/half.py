"""A float32 graph of known shapes → the same in float16 between its inputs and outputs, and what float16 cannot hold.

Nodes that are kept compute in float32, with casts around them. What does not fit is found by running the float32 graph:
the largest float16 is 65504, its smallest normal number 6.1e-5.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgepress.exporter.graph.editing import Editor, copied, remove_unused, set_nodes
from edgepress.exporter.graph.weights import Weights, as_type
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.walk import subgraphs
from edgepress.sessions import open_on_cpu

LARGEST = 65504.0
MARGIN = 4.0  # other inputs give larger values
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_IN_FLOAT = frozenset({"QuantizeLinear", "DequantizeLinear", "Range", "ConstantOfShape", "RandomNormalLike"})
_SIZES = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that are float32 whatever the data is
_AT_ONCE = 64  # values that are looked at in one run


def to_float16(model: onnx.ModelProto, weights: Weights, kept: Collection[str]) -> None:
    """Change the main graph in place; nodes named in ``kept``, and those with graphs inside, stay in float32.

    ::

        x (float32) ─ Cast ─ nodes in float16 ─ Cast ─ kept ─ Cast ─ nodes in float16 ─ Cast ─ y (float32)
    """
    editor = Editor(model, model.graph, weights)
    outputs = {value.name for value in model.graph.output}
    half: set[str] = set()  # values that are made in float16, under another name
    made: set[str] = set()  # casts that are there

    def cast(name: str, kind: int) -> str:
        """A float32 value as ``kind``, by a Cast or, of a constant, as it is stored."""
        other = f"{name}.half"
        if name in editor.constants:
            if kind == _FLOAT:
                return name
            return editor.weight(other, as_type(weights.rows(editor.constants[name]), _HALF))
        wanted, source = (other, name) if kind == _HALF else (name, other)
        if (kind == _HALF) != (name in half) and wanted not in made:
            made.add(wanted)
            editor.emit("Cast", [source], wanted, to=kind)
            editor.nodes[-1].name = f"{wanted}/cast"  # the value may have the name of the node that made it
        return wanted

    for node in model.graph.node:
        one, is_half = copied(node), computes_in_half(node, kept)
        kind = _HALF if is_half else _FLOAT
        for index, name in enumerate(node.input):
            if name and editor.type(name) == _FLOAT:
                one.input[index] = cast(name, _FLOAT if index in _SIZES.get(node.op_type, ()) else kind)
        if any(True for _ in subgraphs(node)):  # reads by name inside
            for name in (name for name in half if name not in made):
                cast(name, _FLOAT)
        if is_half:
            for index, name in enumerate(node.output):
                if name and editor.type(name) == _FLOAT:
                    one.output[index] = f"{name}.half"
                    half.add(name)
            for entry in one.attribute:
                if entry.name == "to" and entry.i == _FLOAT:
                    entry.i = _HALF
        editor.nodes.append(one)
    for name in outputs & half:
        cast(name, _FLOAT)
    set_nodes(model.graph, editor.nodes)
    del model.graph.value_info[:]
    remove_unused(model)


def computes_in_half(node: onnx.NodeProto, kept: Collection[str]) -> bool:
    """Whether a node computes in float16 where those named in ``kept`` do not."""
    return node.name not in kept and node.op_type not in _IN_FLOAT and not any(True for _ in subgraphs(node))


def find_unfit(file: Path, feeds: Sequence[Mapping[str, NDArray[np.generic]]]) -> dict[str, str]:
    """The nodes of a float32 graph that float16 cannot hold, each with the reason: what it gives, reads or holds."""
    model, found = parse_model(file), dict[str, str]()
    sizes, weights = _largest(file, model, feeds), Weights(file)
    editor = Editor(model, model.graph, weights)
    for node in model.graph.node:
        values = [(name, sizes[name]) for name in (*node.input, *node.output) if name in sizes]
        values += list(_constants(editor, node))
        name, size = max(values, key=lambda one: one[1], default=("", 0.0))
        if size * (1.0 if name in editor.constants else MARGIN) > LARGEST:
            found[node.name] = f"{name} reaches {size:.3g}, and float16 ends at {LARGEST:g}"
        elif vanished := next((one for one in node.input if _vanishes(editor, one)), ""):
            found[node.name] = f"{vanished} is {editor.small(vanished)!s}, which float16 has as 0"
    return found


def _constants(editor: Editor, node: onnx.NodeProto) -> Iterator[tuple[str, float]]:
    for name in node.input:
        tensor = editor.constants.get(name)
        if tensor is not None and tensor.data_type == _FLOAT:
            pieces = editor.weights.rows(tensor).pieces()
            yield name, max((float(np.abs(piece).max(initial=0.0)) for _, piece in pieces), default=0.0)


def _vanishes(editor: Editor, name: str) -> bool:
    """A number by which something is divided, or at which it is cut, that becomes 0."""
    tensor = editor.constants.get(name)
    if tensor is None or tensor.data_type != _FLOAT or (value := editor.small(name)) is None or value.size != 1:
        return False
    return bool(value.item() != 0 and np.float16(value.item()) == 0)


def _largest(
    file: Path, model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, float]:
    """The largest magnitude of each float32 value that a node of the main graph gives; infinity if one is no number."""
    editor = Editor(model, model.graph, Weights(file))
    names = [name for node in model.graph.node for name in node.output if name and editor.type(name) == _FLOAT]
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, _FLOAT, None) for name in names if name not in given
    )
    session, found = open_on_cpu(model.SerializeToString()), dict.fromkeys(names, 0.0)
    for feed in feeds:
        for at in range(0, len(names), _AT_ONCE):
            some = names[at : at + _AT_ONCE]
            for name, value in zip(some, session.run(some, dict(feed)), strict=True):
                size = float(np.abs(value).max(initial=0.0))
                found[name] = max(found[name], size) if np.isfinite(size) else float("inf")
    return found
