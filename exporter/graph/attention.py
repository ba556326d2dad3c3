"""Attention in plain operators: what passes and static graphs write in place of the fused ones.

Shapes: queries (batch, heads, sequence, head_dim), keys and values (batch, kv_heads, total, head_dim), scores
(batch, heads, sequence, total). Queries of one group are stacked, (batch, kv_heads, group · sequence, head_dim), so
that keys are read once for all of them and nothing is repeated. Rotary embeddings are applied before heads come first:
then rows of the tables and of what they turn lie along one axis, without which Qualcomm's compiler computes integers
wrongly (targets/qnn_htp.py, ``LOOKUP_RULES``).
"""

from dataclasses import dataclass

import numpy as np

from edgepress.exporter.graph.editing import Editor


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding: tables (positions, rotated / 2) and the positions, (batch, sequence), to look up."""

    cos: str
    sin: str
    positions: str
    rotated: int
    interleaved: bool


@dataclass(frozen=True)
class Scoring:
    """How scores are made: ``softcap`` c > 0 gives c · tanh(s / c); ``biases`` are added, masks among them."""

    heads: int
    kv_heads: int
    scale: float
    softcap: float = 0.0
    biases: tuple[str, ...] = ()


def split_heads(editor: Editor, x: str, head_dim: int, output: str) -> str:
    """(batch, sequence, heads · head_dim) → (batch, sequence, heads, head_dim)."""
    return editor.emit("Reshape", [x, editor.integers(0, 0, -1, head_dim)], output)


def join_heads(editor: Editor, x: str, output: str) -> str:
    """(batch, sequence, heads, head_dim) → (batch, sequence, heads · head_dim)."""
    return editor.emit("Reshape", [x, editor.integers(0, 0, -1)], output)


def swap_heads(editor: Editor, x: str, output: str) -> str:
    """(batch, sequence, heads, head_dim) → (batch, heads, sequence, head_dim), or back."""
    return editor.emit("Transpose", [x], output, perm=[0, 2, 1, 3])


def merge_heads(editor: Editor, x: str, output: str) -> str:
    """(batch, heads, sequence, head_dim) → (batch, sequence, heads · head_dim)."""
    return join_heads(editor, swap_heads(editor, x, f"{output}/by_token"), output)


def rotate(editor: Editor, x: str, rotary: Rotary, head_dim: int, output: str) -> str:
    """Rotate the first ``rotated`` dimensions of x (batch, sequence, heads, head_dim).

    ::

        x ─ Split ┬ first ─ pairs (a, b) ┬ a·cos − b·sin ┬ Concat ┬ Concat ─
                  │                      └ b·cos + a·sin ┘        │
                  └ the rest, as it is ───────────────────────────┘
    """
    cos, sin = (_angles(editor, table, rotary.positions) for table in (rotary.cos, rotary.sin))
    first, rest = x, ""
    if rotary.rotated < head_dim:
        first, rest = f"{output}/first", f"{output}/rest"
        sizes = editor.integers(rotary.rotated, head_dim - rotary.rotated)
        editor.emit("Split", [x, sizes], [first, rest], axis=-1)
    a, b = _pairs(editor, first, rotary, output)
    real = _combined(editor, "Sub", (a, cos), (b, sin), f"{output}/real")
    imaginary = _combined(editor, "Add", (b, cos), (a, sin), f"{output}/imaginary")
    turned = f"{output}/turned" if rest else output
    if rotary.interleaved:
        axis = editor.integers(-1)
        columns = [editor.emit("Unsqueeze", [part, axis], f"{part}/column") for part in (real, imaginary)]
        paired = editor.emit("Concat", columns, f"{output}/paired", axis=-1)
        editor.emit("Reshape", [paired, editor.integers(0, 0, 0, rotary.rotated)], turned)
    else:
        editor.emit("Concat", [real, imaginary], turned, axis=-1)
    return editor.emit("Concat", [turned, rest], output, axis=-1) if rest else output


def _angles(editor: Editor, table: str, positions: str) -> str:
    """The table's rows at the positions, (batch, sequence, 1, rotated / 2); looked up once for all that share both."""
    output = f"{table}/at/{positions}"
    while output in editor.makers:  # another pass wrote it, perhaps further on in the graph
        output += "'"
    if all(output not in node.output for node in editor.nodes):
        rows = editor.emit("Gather", [table, positions], f"{output}/rows", axis=0)
        editor.emit("Unsqueeze", [rows, editor.integers(2)], output)
    return output


def _pairs(editor: Editor, x: str, rotary: Rotary, output: str) -> tuple[str, str]:
    """The two numbers of each pair, (…, rotated / 2) each."""
    a, b = f"{output}/a", f"{output}/b"
    half = rotary.rotated // 2
    if not rotary.interleaved:
        editor.emit("Split", [x, editor.integers(half, half)], [a, b], axis=-1)
        return a, b
    stop, axis, step = editor.integers(rotary.rotated), editor.integers(3), editor.integers(2)
    for start, part in ((0, a), (1, b)):
        editor.emit("Slice", [x, editor.integers(start), stop, axis, step], part)
    return a, b


def _combined(editor: Editor, op: str, one: tuple[str, str], other: tuple[str, str], output: str) -> str:
    products = [editor.emit("Mul", pair, f"{output}/{number}") for number, pair in enumerate((one, other))]
    return editor.emit(op, products, output)


def attend(editor: Editor, query: str, cache: tuple[str, str], scoring: Scoring, output: str) -> str:
    """Attended values (batch, heads, sequence, head_dim); ``cache`` is all keys and all values.

    ::

        query ─ × scale ─ by group ─ MatMul(·, keysᵀ) ─ by head ─ (softcap) ─ + biases ─ Softmax ┐
                                                  by head ─ MatMul(·, values) ─ by group ────────┘
    """
    keys, values = cache
    grouped = scoring.heads != scoring.kv_heads
    by_group, by_head = (editor.integers(0, heads, -1, 0) for heads in (scoring.kv_heads, scoring.heads))

    def reshaped(x: str, shape: str, name: str) -> str:
        return editor.emit("Reshape", [x, shape], f"{output}/{name}") if grouped else x

    scale = editor.constant(f"scale_{scoring.scale:.9g}", np.array(scoring.scale, np.float32))
    scaled = editor.emit("Mul", [query, scale], f"{output}/scaled")
    turned = editor.emit("Transpose", [keys], f"{output}/keys", perm=[0, 1, 3, 2])
    scores = editor.emit("MatMul", [reshaped(scaled, by_group, "query"), turned], f"{output}/products")
    scores = reshaped(scores, by_head, "scores")
    if scoring.softcap:
        cap = editor.constant(f"softcap_{scoring.softcap:.9g}", np.array(scoring.softcap, np.float32))
        part = editor.emit("Div", [scores, cap], f"{output}/uncapped")
        scores = editor.emit("Mul", [editor.emit("Tanh", [part], f"{output}/tanh"), cap], f"{output}/capped")
    for number, bias in enumerate(scoring.biases):
        scores = editor.emit("Add", [scores, bias], f"{output}/biased.{number}")
    weights = editor.emit("Softmax", [scores], f"{output}/weights", axis=-1)
    attended = f"{output}/attended" if grouped else output
    editor.emit("MatMul", [reshaped(weights, by_group, "weights_by_group"), values], attended)
    return editor.emit("Reshape", [attended, by_head], output) if grouped else output
