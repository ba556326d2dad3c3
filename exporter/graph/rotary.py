"""Rotary embedding without stored tables: cos and sin of the positions of each call, and back to tables.

A table for every position of the context is a third of a small model's bundle. A call needs the rows of its own tokens
only: so each call computes these, and the nodes that rotate are told which row is whose. GroupQueryAttention asks for
as many rows as the text is long all the same; the rest is padding, a hundredth of what it reads of the cache. ALiBi
(Press et al. 2022), in the place of rotary embedding, is computed of the same lengths.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.exporter.graph.builder import FLOAT, GraphBuilder
from edgepress.exporter.graph.editing import remove_unused, set_nodes
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.model.parts.primitives import Alibi, Rope
from edgepress.exporter.model.rope import query_factors, rope_rows
from edgepress.onnx_graph.tensors import Array, Rows

LONG_FROM = "long_from"  # an initializer; the runtime overrides it, so that the pieces of one prompt agree
POSITIONS = "rope.position_ids"  # (batch, sequence): the position of each token of a call
ROWS = "rope.rows"  # (batch, sequence): the row of each token of a call
CONTEXT_LENGTH = "edgepress.context_length"  # a graph's metadata: for how many positions it was made
INT64, BFLOAT16 = TensorProto.INT64, TensorProto.BFLOAT16
_WIDE = 64  # pairs that are rotated, from which on tables are cast before they are padded
_FREQUENCIES, _FACTOR, _FACTORS = "frequencies", "attention_factor", "query_factors"


def write_rotary(g: GraphBuilder, key: str, rope: Rope) -> tuple[str, str, str]:
    """Write the cos and sin of a call's positions, once; return their names and that of the rows, :data:`ROWS`.

    ::

        positions (batch · sequence, 1) ─ Mul(frequencies) ┬ Cos ─ (Mul attention factor) ┬ Pad(total) ─ cos
                                                           └ Sin ─ …                      └ Cast ─ Concat ─ in float16
                                                           ConstantOfShape (total, …) ─────────────┘

    longrope's frequencies are two rows, and ``total > long_from`` chooses one of them.
    """
    names = (f"rope.{key}.cos", f"rope.{key}.sin", ROWS)
    if g.has_value(f"{names[0]}.of_call"):
        return names
    with g.in_half(False):
        if not g.has_value(ROWS):
            _write_positions(g)
        name, long = f"rope.{key}.{_FREQUENCIES}", rope.long_inverse_frequencies
        if long is None:
            chosen = g.constant(name, np.array(rope.inverse_frequencies, np.float32))
        else:
            both = g.constant(name, np.array([rope.inverse_frequencies, long], np.float32))
            limit = g.constant(LONG_FROM, np.array(rope.long_from, np.int64))
            is_long = g.node("Greater", ["total", limit], f"rope.{key}.is_long")
            chosen = g.node("Gather", [both, g.node("Cast", [is_long], f"rope.{key}.row", to=INT64)], f"{name}.chosen")
        angles = g.node("Mul", ["rope.positions", chosen], f"rope.{key}.angles")
        for table, function in zip(names, ("Cos", "Sin"), strict=False):
            rows = g.node(function, [angles], f"{table}.of_call")
            if rope.attention_factor != 1.0:
                factor = g.constant(f"rope.{key}.{_FACTOR}", np.array(rope.attention_factor, np.float32))
                rows = g.node("Mul", [rows, factor], f"{table}.scaled")
            width = len(rope.inverse_frequencies)
            if width >= _WIDE:
                g.when_read(table, _padded(g, rows, width))
            else:
                _pad(g, rows, width, table)
    return names


def _pad(g: GraphBuilder, rows: str, width: int, table: str) -> None:
    """Add as many rows of zeros as the text is long."""
    if not g.has_value("rope.pads"):
        ends = (g.constant(f"rope.pads_{name}", np.zeros(n, np.int64)) for name, n in (("before", 2), ("after", 1)))
        first, last = ends
        g.node("Concat", [first, "mask_shape", last], "rope.pads", axis=0)
    g.shape(table, FLOAT, ["rope_rows", width])
    g.node("Pad", [rows, "rope.pads"], table)


def _padded(g: GraphBuilder, rows: str, width: int) -> Callable[[str, int], None]:
    """What writes ``rows`` (batch · sequence, width), and zeros below them, in either float type.

    In float16, in which there is no Pad, rows are cast before the zeros: casting these takes more than making them. For
    narrow rows the two nodes more would cost a short text what a long one saves.
    """

    def write(table: str, dtype: int) -> None:
        if dtype == FLOAT:
            _pad(g, rows, width, table)
            return
        zeros = f"rope.zeros_{width}"
        if not g.has_value(zeros):
            size = g.constant(f"rope.width_{width}", np.array([width], np.int64))
            g.zeros(g.node("Concat", ["mask_shape", size], f"{zeros}.shape", axis=0), zeros, dtype)
        g.shape(table, dtype, ["rope_rows", width])
        with g.in_half(True):
            g.node("Concat", [rows, zeros], table, axis=0)

    return write


def _write_positions(g: GraphBuilder) -> None:
    """Positions as a column of floats, and the row of each token.

    A row of the batch goes on after the tokens of it that its mask has, as GroupQueryAttention does::

        lengths − sequence, at least 0 ─ Add(0 … sequence − 1) ─ Reshape ─ Cast ─ rope.positions (batch · sequence, 1)
    """
    zero, one = (g.constant(f"rope.{i}", np.array(i, np.int64)) for i in (0, 1))
    shape = g.node("Shape", ["input_ids"], "rope.shape")  # (2,)
    length = g.node("Gather", [shape, one], "rope.sequence")
    before = g.node("Max", [g.node("Sub", ["lengths", length], "rope.before"), zero], "rope.past")  # (batch,)
    column = g.node("Unsqueeze", [before, g.constant("rope.axis", np.array([1], np.int64))], "rope.past_column")
    steps = g.node("Range", [zero, length, one], "rope.steps")
    positions = g.node("Add", [column, steps], POSITIONS)  # (batch, sequence)
    flat = g.node("Reshape", [positions, g.constant("rope.flat", np.array([-1, 1], np.int64))], "rope.positions_flat")
    g.node("Cast", [flat], "rope.positions", to=FLOAT)
    count = g.node("Range", [zero, g.node("Size", ["input_ids"], "rope.count"), one], "rope.numbers")
    g.node("Reshape", [count, shape], ROWS)


def write_query_factors(g: GraphBuilder, key: str, growth: tuple[float, int]) -> str:
    """Write 1 + β ln(1 + ⌊p / n⌋) of each token's position p, (batch, sequence, 1), once; ``growth`` is (β, n).

    ::

        positions ─ Cast ─ Div(n) ─ Floor ─ Add(1) ─ Log ─ Mul(β) ─ Add(1) ─ Unsqueeze
    """
    name = f"rope.{key}.{_FACTORS}"
    if g.has_value(name):
        return name
    with g.in_half(False):
        if not g.has_value(ROWS):
            _write_positions(g)
        numbers = {"beta": growth[0], "every": growth[1], "one": 1.0}
        beta, every, one = (g.constant(f"{name}.{n}", np.array(value, np.float32)) for n, value in numbers.items())
        turns = g.node("Div", [g.node("Cast", [POSITIONS], f"{name}.positions", to=FLOAT), every], f"{name}.quotient")
        turns = g.node("Floor", [turns], f"{name}.turns")
        grown = g.node("Log", [g.node("Add", [turns, one], f"{name}.turns_and_1")], f"{name}.log")
        factors = g.node("Add", [g.node("Mul", [grown, beta], f"{name}.grown"), one], f"{name}.of_token")
        return g.node("Unsqueeze", [factors, g.constant(f"{name}.axis", np.array([-1], np.int64))], name)


def write_alibi(g: GraphBuilder, alibi: Alibi) -> str:
    """Write slope · (j − i) for each head, query at i and key at j, (1, heads, sequence, total); return its name.

    The queries of a row are its last positions: where it has fewer tokens than others, all of its distances shift
    alike, which changes no share::

        Range(0, total) ─ Cast ─ keys (total,) ───────┬ Sub ─ Mul slopes (1, heads, 1, 1) ─ alibi
        Range(total − sequence, total) ─ Cast ─ Unsqueeze ┘

    In bfloat16 it is the product with the key's position alone, rounded, the same for all queries.
    """
    key = "_".join(f"{slope:.9g}" for slope in alibi.slopes[:2])
    name = f"alibi.{len(alibi.slopes)}.{key}{'.bfloat16' if alibi.in_bfloat16 else ''}"
    if g.has_value(name):
        return name
    with g.in_half(False):
        zero, one = (g.constant(f"alibi.{i}", np.array(i, np.int64)) for i in (0, 1))
        slopes = g.constant(f"{name}.slopes", np.array(alibi.slopes, np.float32).reshape(1, -1, 1, 1))
        shape = g.node("Shape", ["input_ids"], f"{name}.shape")  # (2,)
        length = g.node("Gather", [shape, one], f"{name}.sequence")
        keys = g.node("Cast", [g.node("Range", [zero, "total", one], f"{name}.places")], f"{name}.keys", to=FLOAT)
        if not alibi.in_bfloat16:
            past = g.node("Sub", ["total", length], f"{name}.past")
            queries = g.node("Range", [past, "total", one], f"{name}.positions")
            column = g.node("Unsqueeze", [queries, g.constant("alibi.axis", np.array([1], np.int64))], f"{name}.column")
            distances = g.node(
                "Sub", [keys, g.node("Cast", [column], f"{name}.queries", to=FLOAT)], f"{name}.distances"
            )
            return g.node("Mul", [distances, slopes], name)
        rounded = _rounded(g, g.node("Mul", [_rounded(g, keys, f"{name}.keys"), slopes], f"{name}.products"), name)
        factor = g.constant(f"{name}.factor", np.array(alibi.factor, np.float32))
        row = g.node("Mul", [rounded, factor], f"{name}.row")  # (1, heads, 1, total)
        ones = g.constant("alibi.ones", np.ones(2, np.int64))
        ends = (g.node("Unsqueeze", [value, g.constant("alibi.first", np.array([0], np.int64))], f"{name}.{part}")
                for part, value in (("rows", length), ("columns", "total")))  # fmt: skip
        sizes = g.node("Concat", [ones, *ends], f"{name}.sizes", axis=0)
        return g.node("Expand", [row, sizes], name)


def _rounded(g: GraphBuilder, x: str, name: str) -> str:
    """To bfloat16 and back."""
    return g.node("Cast", [g.node("Cast", [x], f"{name}.bfloat16", to=BFLOAT16)], f"{name}.rounded", to=FLOAT)


@dataclass(frozen=True)
class _Computed:
    """One rope that a graph computes: its frequencies (1 or 2, rotated / 2)."""

    key: str
    frequencies: Array
    attention_factor: float


def restore_tables(model: onnx.ModelProto, weights: Weights, context: int, positions: str) -> int | None:
    """Put tables of ``context`` positions, in the order of ``positions``, in place of the nodes that compute them.

    Where there are long frequencies their rows stand below the short ones'; returns from which length on they are read.
    A graph without such nodes stays as it is.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ropes = [_read(name, weights, constants) for name in constants if _is_frequencies(name)]
    if not ropes:
        return None
    long = [rope for rope in ropes if len(rope.frequencies) == 2]
    learned = any("position_ids" in node.output for node in model.graph.node)
    if long and (len(ropes) > 1 or learned):
        raise InputError(
            "layers with longrope and layers without it, or with another one, read the same positions; "
            "this model has no static form"
        )
    tables = {f"rope.{rope.key}.{part}": (rope, index) for rope in ropes for index, part in enumerate(("cos", "sin"))}
    limit = int(weights.array(constants[LONG_FROM])) if long else None
    factors = _factor_tables(model, weights, constants, context)
    halves = {
        f"{name}.float16": name for name in tables if any(f"{name}.float16" in n.output for n in model.graph.node)
    }
    kept = [node for node in model.graph.node if not set(node.output) & {*tables, *factors, *halves}]
    for half, name in halves.items():
        kept.insert(0, onnx.helper.make_node("Cast", [name], [half], half, to=TensorProto.FLOAT16))
    for name, table in factors.items():
        model.graph.initializer.append(table)
        kept.insert(0, onnx.helper.make_node("Gather", [table.name, positions], [name], name, axis=0))
    for node in kept:
        for index, name in enumerate(node.input):
            node.input[index] = positions if name == ROWS else name
    set_nodes(model.graph, kept)
    used = 2 if limit is not None and limit < context else 1
    for name, (rope, index) in tables.items():
        model.graph.initializer.append(weights.tensor(name, _rows(rope, index, context, used)))
    shapes = [value for value in model.graph.value_info if value.name not in {*tables, *halves}]
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    remove_unused(model)
    return limit if used == 2 else None


def _factor_tables(
    model: onnx.ModelProto, weights: Weights, constants: dict[str, onnx.TensorProto], context: int
) -> dict[str, onnx.TensorProto]:
    """Tables (context, 1) of what queries are multiplied by, by the value that they make when looked up."""
    names = [node.output[0] for node in model.graph.node if node.output[0].endswith(f".{_FACTORS}")]
    found = {}
    for name in names:
        beta, every = (float(weights.array(constants[f"{name}.{part}"])) for part in ("beta", "every"))

        def read(start: int, stop: int, growth: tuple[float, int] = (beta, int(every))) -> Array:
            return query_factors(growth, stop, start)[:, None]

        found[name] = weights.tensor(f"{name}.table", Rows((context, 1), FLOAT, read))
    return found


def check_context(model: onnx.ModelProto, context: int) -> None:
    """Raise InputError when the model was made for fewer than ``context`` positions, if it says for how many."""
    known = next((entry.value for entry in model.metadata_props if entry.key == CONTEXT_LENGTH), None)
    if known is not None and known.isdecimal() and context > int(known):
        raise InputError(f"a context of {context} is asked for, and the model has {known} positions")


def _is_frequencies(name: str) -> bool:
    return name.startswith("rope.") and name.endswith(f".{_FREQUENCIES}")


def _read(name: str, weights: Weights, constants: dict[str, onnx.TensorProto]) -> _Computed:
    key = name.removeprefix("rope.").removesuffix(f".{_FREQUENCIES}")
    factor = constants.get(f"rope.{key}.{_FACTOR}")
    frequencies = np.atleast_2d(weights.array(constants[name]))
    return _Computed(key, frequencies, 1.0 if factor is None else float(weights.array(factor)))


def _rows(rope: _Computed, part: int, context: int, blocks: int) -> Rows:
    """Rows of the cosines (``part`` 0) or sines, ``context`` of each block of frequencies."""

    def read(start: int, stop: int) -> Array:
        pieces = []
        for block, frequencies in enumerate(rope.frequencies[:blocks]):
            low, high = max(start - block * context, 0), min(stop - block * context, context)
            if low < high:
                pieces.append(rope_rows(list(frequencies), rope.attention_factor, low, high)[part])
        return np.concatenate(pieces)

    return Rows((blocks * context, rope.frequencies.shape[1]), FLOAT, read)
