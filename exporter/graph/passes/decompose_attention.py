"""GroupQueryAttention and MultiHeadAttention → MatMul, Softmax and a cache of Concat.

What GroupQueryAttention reads is in :func:`read_group_query`, which the static graphs use too. The plain form holds for
batches whose rows are equally long and caches that hold nothing but the past: positions follow from shapes there, and
``seqlens_k`` and ``total_sequence_length`` are not read any more.

::

    query ─ (Split) ─ (rotary) ─ heads ───────────────────────┬ attend ─ merge heads
    key ─── (rotary) ─ heads ─ Concat(past_key, ·) = present ─┤
    value ─ heads ─ Concat(past_value, ·) = present ──────────┤
    Range(past, total) ≥ Range(0, total) ─ Where(0, lowest) ──┘
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgepress.errors import InputError
from edgepress.exporter.graph.attention import Rotary, Scoring, attend, merge_heads, rotate, split_heads, swap_heads
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import Editor, rewrite
from edgepress.exporter.graph.passes import Context, Pass
from edgepress.onnx_graph.walk import attributes_of, operand, result

_LOWEST = np.array(-1e9, np.float32)  # below every score; finite, so that a row of it stays a number
# What GroupQueryAttention's attributes must be, if they are there.
_PLAIN_ATTRIBUTES: Mapping[str, tuple[object, str]] = {
    "smooth_softmax": (0, "a smooth softmax adds a term to the denominator"),
    "sliding_window_cache": (0, "the cache evicts by itself"),
    "kv_cache_bit_width": (0, "the cache is quantized"),
    "k_quant_type": ("NONE", "the cache is quantized"),
    "v_quant_type": ("NONE", "the cache is quantized"),
    "qk_output": (0, "scores are an output"),
}


def _apply(model: onnx.ModelProto, context: Context) -> int:
    rules = {(CONTRIB, "GroupQueryAttention"): _group_query, (CONTRIB, "MultiHeadAttention"): _multi_head}
    return rewrite(model, context.weights, rules)


@dataclass(frozen=True)
class GroupQuery:
    """One GroupQueryAttention, read: q, k, v are (batch, sequence, heads, head_dim) and not rotated yet."""

    q: str
    k: str
    v: str
    past: tuple[str, str]
    present: tuple[str, str]
    head_dim: int
    heads: int
    kv_heads: int
    scale: float
    softcap: float
    window: int | None
    causal: bool
    cos: str
    sin: str
    position_ids: str
    interleaved: bool
    bias: str

    def scoring(self, *masks: str) -> Scoring:
        """How its scores are made, with masks besides its own bias."""
        biases = (*([self.bias] if self.bias else []), *masks)
        return Scoring(self.heads, self.kv_heads, self.scale, self.softcap, biases)

    def by_head(self, editor: Editor, positions: str, names: tuple[str, str, str]) -> tuple[str, str, str]:
        """Queries and keys, rotated if they are to be, and values, (batch, heads, sequence, head_dim), so named."""
        q, k = self.q, self.k
        if self.cos:
            table = editor.shape(self.cos)
            if table is None or table[1] is None:
                raise InputError(f"{self.present[0]}: the shape of {self.cos} is not known; name it in the model")
            rotary = Rotary(self.cos, self.sin, positions, 2 * table[1], self.interleaved)
            q, k = (rotate(editor, x, rotary, self.head_dim, f"{x}/rotated") for x in (q, k))
        swap_heads(editor, q, names[0])
        swap_heads(editor, k, names[1])
        swap_heads(editor, self.v, names[2])
        return names


def read_group_query(editor: Editor, node: onnx.NodeProto) -> GroupQuery:
    """Read a GroupQueryAttention and emit what splits its queries, keys and values into heads.

    Raises:
        InputError: it does what plain operators here do not: smooth softmax, head sinks, a quantized cache.

    """
    attributes, y = attributes_of(node), node.output[0]
    _check(node, attributes, y)
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    head_dim = _head_dim(editor, node, heads, kv_heads)
    parts = list(node.input[:3])
    if not operand(node, 1):
        parts = [f"{y}/{part}" for part in "qkv"]
        sizes = editor.integers(heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        editor.emit("Split", [node.input[0], sizes], parts, axis=-1)
    rotates = bool(attributes.get("do_rotary", 0))
    present = (result(node, 1) or f"{y}/present_key", result(node, 2) or f"{y}/present_value")
    q, k, v = (
        split_heads(editor, part, head_dim, f"{y}/{name}_apart") for part, name in zip(parts, "qkv", strict=True)
    )
    window = attributes.get("local_window_size", -1)
    return GroupQuery(
        q=q,
        k=k,
        v=v,
        past=(operand(node, 3), operand(node, 4)),
        present=present,
        head_dim=head_dim,
        heads=heads,
        kv_heads=kv_heads,
        scale=attributes.get("scale", 0.0) or head_dim**-0.5,
        softcap=attributes.get("softcap", 0.0),
        window=None if window < 0 else window,
        causal=bool(attributes.get("causal", 1)),
        cos=operand(node, 7) if rotates else "",
        sin=operand(node, 8) if rotates else "",
        position_ids=operand(node, 9),
        interleaved=bool(attributes.get("rotary_interleaved", 0)),
        bias=operand(node, 10),
    )


def _check(node: onnx.NodeProto, attributes: Mapping[str, Any], y: str) -> None:
    for name, (plain, what) in _PLAIN_ATTRIBUTES.items():
        if attributes.get(name, plain) != plain:
            raise InputError(
                f"{y}: GroupQueryAttention with {name} = {attributes[name]} ({what}) has no plain form here; "
                "export the model without it"
            )
    for index, name in ((11, "head_sink"), (12, "k_scale"), (13, "v_scale"), (14, "q_norm_weight")):
        if operand(node, index):
            raise InputError(
                f"{y}: GroupQueryAttention with {name} has no plain form here; export the model without it"
            )


def _head_dim(editor: Editor, node: onnx.NodeProto, heads: int, kv_heads: int) -> int:
    """From the cache's shape, or the queries'."""
    past = editor.shape(operand(node, 3)) if operand(node, 3) else None
    if past is not None and past[3] is not None:
        return past[3]
    width, query = None, editor.shape(node.input[0])
    if query is not None:
        width = query[-1]
    if width is None:
        raise InputError(f"{node.output[0]}: the width of its heads is not known; name past_key's shape in the model")
    return width // (heads if operand(node, 1) else heads + 2 * kv_heads)


def _group_query(editor: Editor, node: onnx.NodeProto) -> bool:
    read, y = read_group_query(editor, node), node.output[0]
    length = _extent(editor, read.q, 1, f"{y}/sequence")
    past_key, past_value = read.past
    past = _extent(editor, past_key, 2, f"{y}/past") if past_key else editor.constant("int_0", np.array(0, np.int64))
    total = editor.emit("Add", [past, length], f"{y}/total")
    step = editor.constant("int_1", np.array(1, np.int64))
    rows = editor.emit("Range", [past, total, step], f"{y}/rows")  # (sequence,)
    positions = read.position_ids or editor.emit("Unsqueeze", [rows, editor.integers(0)], f"{y}/positions")
    q, k, v = read.by_head(editor, positions, (f"{y}/q_heads", f"{y}/k_heads", f"{y}/v_heads"))
    keys, values = _append(editor, past_key, k, read.present[0]), _append(editor, past_value, v, read.present[1])
    masks = [_causal_mask(editor, rows, total, read.window, f"{y}/mask")] if read.causal else []
    attended = attend(editor, q, (keys, values), read.scoring(*masks), f"{y}/attended")
    merge_heads(editor, attended, y)
    return True


def _extent(editor: Editor, x: str, axis: int, output: str) -> str:
    """A dimension of x, a scalar."""
    return editor.emit("Squeeze", [editor.emit("Shape", [x], f"{output}/shape", start=axis, end=axis + 1)], output)


def _append(editor: Editor, past: str, new: str, present: str) -> str:
    return editor.emit("Concat", [past, new], present, axis=2) if past else editor.emit("Identity", [new], present)


def _causal_mask(editor: Editor, rows: str, total: str, window: int | None, output: str) -> str:
    """0 where row i sees column j, i − window < j ≤ i, and a large negative number elsewhere; (sequence, total)."""
    zero, step = (editor.constant(f"int_{n}", np.array(n, np.int64)) for n in (0, 1))
    columns = editor.emit("Range", [zero, total, step], f"{output}/columns")
    row = editor.emit("Unsqueeze", [rows, editor.integers(1)], f"{output}/row")  # (sequence, 1)
    seen = editor.emit("LessOrEqual", [columns, row], f"{output}/past")
    if window is not None:
        first = editor.emit(
            "Sub", [row, editor.constant(f"int_{window}", np.array(window, np.int64))], f"{output}/first"
        )
        inside = editor.emit("Greater", [columns, first], f"{output}/inside")
        seen = editor.emit("And", [seen, inside], f"{output}/seen")
    open_, closed = editor.constant("mask_open", np.array(0, np.float32)), editor.constant("mask_closed", _LOWEST)
    return editor.emit("Where", [seen, open_, closed], output)


def _multi_head(editor: Editor, node: onnx.NodeProto) -> bool:
    """Queries, keys and values apart, (batch, length, hidden), with bias, attention bias, padding mask and past."""
    attributes, y = attributes_of(node), node.output[0]
    heads = attributes["num_heads"]
    query = editor.shape(node.input[0])
    plain = bool(operand(node, 1)) and bool(operand(node, 2)) and not any(operand(node, n) for n in (8, 9))
    if query is None or len(query) != 3 or query[2] is None or not plain or result(node, 3):
        return False
    key = editor.shape(operand(node, 1))
    padding = editor.shape(operand(node, 4)) if operand(node, 4) else [None, None]
    if key is None or len(key) != 3 or padding is None or len(padding) != 2:
        return False
    if attributes.get("unidirectional", 0):
        return False
    head_dim = query[2] // heads
    q, k, v = (
        swap_heads(editor, split_heads(editor, part, head_dim, f"{y}/{name}_apart"), f"{y}/{name}_heads")
        for part, name in zip(_biased(editor, node, query[2]), "qkv", strict=True)
    )
    present = [result(node, 1) or f"{y}/present_key", result(node, 2) or f"{y}/present_value"]
    if operand(node, 6) or result(node, 1):
        k, v = (_append(editor, operand(node, 6 + n), x, present[n]) for n, x in enumerate((k, v)))
    biases = [operand(node, 5)] if operand(node, 5) else []
    if operand(node, 4):
        lowest = attributes.get("mask_filter_value", -10000.0)
        biases.append(_padding_mask(editor, operand(node, 4), lowest, f"{y}/padding"))
    scale = attributes.get("scale", 0.0) or head_dim**-0.5
    scoring = Scoring(heads, heads, scale, biases=tuple(biases))
    merge_heads(editor, attend(editor, q, (k, v), scoring, f"{y}/attended"), y)
    return True


def _biased(editor: Editor, node: onnx.NodeProto, width: int) -> list[str]:
    """Query, key and value with their part of the bias, (hidden + hidden + hidden,)."""
    parts = list(node.input[:3])
    bias, y = operand(node, 3), node.output[0]
    if not bias:
        return parts
    pieces = [f"{y}/{part}_bias" for part in "qkv"]
    shape = editor.shape(bias)
    rest = 3 * width if shape is None or shape[0] is None else shape[0]
    editor.emit("Split", [bias, editor.integers(width, width, rest - 2 * width)], pieces, axis=0)
    return [
        editor.emit("Add", [part, piece], f"{y}/{name}_biased")
        for part, piece, name in zip(parts, pieces, "qkv", strict=True)
    ]


def _padding_mask(editor: Editor, mask: str, lowest: float, output: str) -> str:
    """(batch, total) with 0 for padding → (batch, 1, 1, total), added to scores."""
    seen = editor.emit("Cast", [mask], f"{output}/seen", to=onnx.TensorProto.BOOL)
    open_ = editor.constant("mask_open", np.array(0, np.float32))
    closed = editor.constant(f"mask_{lowest:.9g}", np.array(lowest, np.float32))
    added = editor.emit("Where", [seen, open_, closed], f"{output}/added")
    return editor.emit("Unsqueeze", [added, editor.integers(1, 2)], output)


PASS = Pass(
    name="decompose-attention",
    description="GroupQueryAttention and MultiHeadAttention become MatMul, Softmax and Concat",
    operators=(f"{CONTRIB}.GroupQueryAttention", f"{CONTRIB}.MultiHeadAttention"),
    apply=_apply,
    makes=("Shape", "Range", "Identity", "And"),
)
