"""ONNX's Attention → MatMul, Softmax and MatMul, for providers that do not have it.

Masks of booleans become numbers first, as in ``float-masks``; a causal mask is a constant where the lengths are known.
What holds a past, gives its scores, or caps them beside a mask is left alone.
"""

from math import sqrt

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.exporter.graph.attention import Scoring, attend, merge_heads, split_heads, swap_heads
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass, find_pass
from edgepress.onnx_graph.walk import attributes_of, operand, result

_CLOSED = -1e4  # far below any score, and a number in float16 too
_OTHERS = (4, 5, 6)  # inputs: past keys and values, and how many keys are no padding


def _apply(model: onnx.ModelProto, context: Context) -> int:
    masks = find_pass("float-masks").apply(model, context)
    return masks + rewrite(model, context.weights, {("", "Attention"): _plain})


def _plain(editor: Editor, node: onnx.NodeProto) -> bool:  # noqa: PLR0911 - what is left alone, case by case
    """Heads come first in queries, keys and values, or are joined in the last axis."""
    attributes, y, mask = attributes_of(node), node.output[0], operand(node, 3)
    if any(operand(node, index) for index in _OTHERS) or any(result(node, index) for index in (1, 2, 3)):
        return False
    softcap = attributes.get("softcap", 0.0)
    shapes = [editor.shape(name) for name in node.input[:3]]
    query, key, _ = shapes
    if editor.type(node.input[0]) not in (None, TensorProto.FLOAT):
        return False
    if query is None or key is None or (softcap and (mask or attributes.get("is_causal"))):
        return False
    names, joined = list(node.input[:3]), len(query) == 3
    heads, kv_heads = attributes.get("q_num_heads"), attributes.get("kv_num_heads")
    if not joined:
        heads, kv_heads = query[1], key[1]
    width = query[-1]
    if not heads or not kv_heads or width is None:
        return False
    head_dim = width // heads if joined else width
    if joined:
        values = shapes[2]
        sizes = [head_dim, head_dim, (values[-1] or 0) // kv_heads if values else 0]
        if not all(sizes):
            return False
        for number, size in enumerate(sizes):
            apart = split_heads(editor, names[number], size, f"{y}/apart.{number}")
            names[number] = swap_heads(editor, apart, f"{y}/by_head.{number}")
    biases = [mask] if mask else []
    if attributes.get("is_causal"):
        lengths = (query[-2], key[-2])
        if lengths[0] is None or lengths[1] is None:
            return False
        later = np.triu(np.ones((lengths[0], lengths[1]), bool), 1)
        name = f"causal_{lengths[0]}_{lengths[1]}"
        biases.append(editor.constant(name, np.where(later, np.float32(_CLOSED), np.float32(0))))
    scoring = Scoring(heads, kv_heads, attributes.get("scale", 1 / sqrt(head_dim)), softcap, tuple(biases))
    attended = attend(editor, names[0], (names[1], names[2]), scoring, f"{y}/attended" if joined else y)
    if joined:
        merge_heads(editor, attended, y)
    return True


PASS = Pass(
    name="plain-attention",
    description="ONNX's Attention becomes MatMul, Softmax and MatMul",
    operators=("Attention",),
    apply=_apply,
)
