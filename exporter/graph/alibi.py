"""ALiBi (Press et al. 2022) as what GroupQueryAttention adds to scores: computed from the lengths of a call, once."""

import numpy as np
from onnx import TensorProto

from edgepress.exporter.graph.builder import FLOAT, GraphBuilder
from edgepress.exporter.model.description import Alibi

INT64, BFLOAT16 = TensorProto.INT64, TensorProto.BFLOAT16


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
