"""ONNX's Attention of heads that were moved apart for it → the same operator of heads together, which it finds itself.

What moves them copies every number of queries, keys, values and results; the operator reads them where they lie::

    q (b, s, h·d) ─ Reshape (b, s, h, d) ─ Transpose ┐                                            q ┐
    k ─ Reshape ─ Transpose ─────────────────────────┼ Attention ─ Transpose ─ Reshape (b, s, ·)  k ┼ Attention
    v ─ Reshape ─ Transpose ─────────────────────────┘                                            v ┘

Queries, keys and values of one product are split instead, along its last axis::

    x (b, s, 3·h·d) ─ Reshape (b, s, 3, h, d) ─ Transpose (3, b, h, s, d) ─ Slice, Squeeze ─    x ─ Split (b, s, h·d)

onnxruntime 1.31 computes both with the same bits, whatever masks, groups, lengths and caps there are. Left alone is
what computes with heads apart before it (rotary embeddings, norms of a head): to put them together first would cost
what is spared. So is what has a past or gives more than its result, and what has sizes that are not known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import helper

from edgepress.exporter.graph.editing import Editor, copied, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.values import named_shapes
from edgepress.onnx_graph.walk import attribute, normal_domain, operand, result

_Shapes = Callable[[], Mapping[str, tuple[int | str, ...]]]
_BY_TOKEN = [0, 2, 1, 3]  # (b, h, s, d) ↔ (b, s, h, d)
_PACKED = [2, 0, 3, 1, 4]  # (b, s, parts, h, d) → (parts, b, h, s, d)
_KEPT = {0: 0, 2: 1}  # axes of texts and tokens, of heads apart and together
_OTHERS = (4, 5, 6)  # inputs: past keys and values, and how many keys are no padding


@dataclass(frozen=True)
class _Part:
    """(b, s, h · d) that was taken apart: all of ``x``, or the ``index``-th of so many ``parts`` of its last axis."""

    x: str
    width: int
    index: int = 0
    parts: int = 1


def _apply(model: onnx.ModelProto, context: Context) -> int:
    shapes, split = cache(lambda: named_shapes(model)), set[str]()

    def joined(editor: Editor, node: onnx.NodeProto) -> bool:
        return _joined(editor, node, shapes, split)

    def size(editor: Editor, node: onnx.NodeProto) -> bool:
        return _size(editor, node, shapes)

    if not any(node.op_type == "Attention" and not normal_domain(node.domain) for node in model.graph.node):
        return 0
    return rewrite(model, context.weights, {("", "Reshape"): joined, ("", "Shape"): size})


def _joined(editor: Editor, node: onnx.NodeProto, shapes: _Shapes, split: set[str]) -> bool:
    """``node`` is the last of the figure; ``split`` are the products that were."""
    turned = _maker(editor, node.input[0], "Transpose", _BY_TOKEN)
    attention = None if turned is None else _maker(editor, turned.input[0], "Attention")
    if turned is None or attention is None or not _is_alone(editor, attention.output[0], turned.output[0]):
        return False
    if any(operand(attention, index) for index in _OTHERS) or any(result(attention, index) for index in (1, 2, 3)):
        return False
    found = [_part(editor, name, shapes()) for name in attention.input[:3]]
    parts = [part for part in found if part is not None]
    y = shapes().get(turned.output[0], ())
    if len(parts) < len(found) or len(y) != 4 or not isinstance(y[2], int) or not isinstance(y[3], int):
        return False
    is_flat = shapes().get(node.output[0]) == (*y[:2], y[2] * y[3])
    if not is_flat and not _reads_all_sizes(editor, node):
        return False
    changed = copied(attention)
    changed.input[:3] = [_apart(editor, part, split) for part in parts]
    changed.output[0] = node.output[0] if is_flat else f"{attention.output[0]}.together"
    changed.attribute.extend(
        helper.make_attribute(f"{name}_num_heads", shapes()[attention.input[index]][1])
        for index, name in enumerate(("q", "kv"))
    )
    editor.nodes.append(changed)
    if not is_flat:
        last = copied(node)
        last.input[:] = [changed.output[0], node.input[1]]
        editor.nodes.append(last)
    return True


def _size(editor: Editor, node: onnx.NodeProto, shapes: _Shapes) -> bool:
    """How many texts or tokens there are is asked of heads together, for masks that get a row for each query."""
    part = _part(editor, node.input[0], shapes())
    axis = attribute(node, "start", 0) % 4
    if part is None or axis not in _KEPT or attribute(node, "end", 4) % 4 != axis + 1:
        return False
    editor.emit("Shape", [part.x], node.output[0], start=_KEPT[axis], end=_KEPT[axis] + 1)
    return True


def _part(editor: Editor, name: str, shapes: Mapping[str, tuple[int | str, ...]]) -> _Part | None:
    """What heads (b, h, s, d) were together, where nothing was computed with them apart."""
    heads = shapes.get(name, ())
    if len(heads) != 4 or not isinstance(heads[1], int) or not isinstance(heads[3], int):
        return None
    by_token, width = (heads[0], heads[2], heads[1], heads[3]), heads[1] * heads[3]
    turned = _maker(editor, name, "Transpose", _BY_TOKEN)
    view = None if turned is None else _maker(editor, turned.input[0], "Reshape")
    if view is not None and shapes.get(view.input[0]) == (*by_token[:2], width):
        return _Part(view.input[0], width)
    cut = _slice(editor, name)
    turned = None if cut is None else _maker(editor, cut.input[0], "Transpose", _PACKED)
    view = None if turned is None else _maker(editor, turned.input[0], "Reshape")
    if cut is None or view is None:
        return None
    (index,), parts = _numbers(editor, cut, 1), shapes.get(view.output[0], ())[2:3]
    if not isinstance(parts[0], int) or shapes.get(view.output[0]) != (*by_token[:2], *parts, *by_token[2:]):
        return None
    if not 0 <= index < parts[0] or shapes.get(view.input[0]) != (*by_token[:2], parts[0] * width):
        return None
    return _Part(view.input[0], width, index, parts[0])


def _slice(editor: Editor, name: str) -> onnx.NodeProto | None:
    """The Slice of one index along the first axis that a value is, without that axis."""
    taken = _maker(editor, name, "Squeeze")
    cut = None if taken is None else _maker(editor, taken.input[0], "Slice")
    if taken is None or cut is None or _numbers(editor, taken, 1) != [0] or _numbers(editor, cut, 3) != [0]:
        return None
    (start, stop), steps = (_numbers(editor, cut, index) for index in (1, 2)), _numbers(editor, cut, 4)
    is_one = len(start) == len(stop) == 1 and stop[0] == start[0] + 1 and steps in ([], [1])
    return cut if is_one and (steps or not operand(cut, 4)) else None


def _apart(editor: Editor, part: _Part, split: set[str]) -> str:
    """The name of a part, which is split off where it is one of several."""
    if part.parts == 1:
        return part.x
    names = [f"{part.x}.part.{index}" for index in range(part.parts)]
    if part.x not in split:
        split.add(part.x)
        editor.emit("Split", [part.x, editor.integers(*([part.width] * part.parts))], names, axis=-1)
    return names[part.index]


def _maker(editor: Editor, name: str, op: str, order: Sequence[int] | None = None) -> onnx.NodeProto | None:
    """The node of this kind that makes a value, a Transpose in this order."""
    node = editor.makers.get(name)
    if node is None or node.op_type != op or normal_domain(node.domain):
        return None
    return node if order is None or attribute(node, "perm") == order else None


def _is_alone(editor: Editor, *names: str) -> bool:
    """Whether one node reads each value and nobody else does."""
    given = {value.name for value in editor.graph.output}
    return all(len(editor.readers.get(name, ())) == 1 and name not in given for name in names)


def _numbers(editor: Editor, node: onnx.NodeProto, index: int) -> list[int]:
    """A constant input of a few integers, none where it is computed or not there."""
    found = editor.small(operand(node, index))
    return [] if found is None else [int(number) for number in found.reshape(-1)]


def _reads_all_sizes(editor: Editor, node: onnx.NodeProto) -> bool:
    """Whether a Reshape takes no size from an axis that is another one with heads together: 0 says as it is."""
    if attribute(node, "allowzero", 0):
        return True
    sizes = _numbers(editor, node, 1)
    return bool(sizes) and 0 not in sizes[2:]


PASS = Pass(
    name="heads-together",
    description="ONNX's Attention takes heads apart itself, where Reshape and Transpose did nothing else",
    operators=(),
    apply=_apply,
)
