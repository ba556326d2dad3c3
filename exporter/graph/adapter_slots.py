"""How a graph takes an adapter: what stands beside a product that has a slot (:mod:`edgepress.adapter_slots`)."""

import numpy as np

from edgepress.adapter_slots import Slot
from edgepress.exporter.graph.builder import GraphBuilder


def write_slot(g: GraphBuilder, slot: Slot, x: str, product: str, output: str) -> str:
    """Add what an adapter changes of ``product``; the result is called ``output``.

    ::

        x ─ MatMul(A) ─ MatMul(B) ─┬ Add ─ output
        product ───────────────────┘

    Computed in float32 in every graph, so that one file of factors fits all of them. Without an adapter the rank is 0:
    the first product has no columns, the second one is a sum of nothing, and zeros change no bit of what they are added
    to. onnxruntime gives its kernels no such product to compute.
    """
    rank = f"{slot.name}.rank"
    a = g.optional_input(slot.a, [slot.columns, rank], np.zeros((slot.columns, 0), np.float32))
    b = g.optional_input(slot.b, [rank, slot.rows], np.zeros((0, slot.rows), np.float32))
    with g.in_half(False):
        low = g.node("MatMul", [x, a], f"{slot.name}.low_rank")  # (batch, sequence, rank)
        return g.node("Add", [product, g.node("MatMul", [low, b], f"{slot.name}.adapted")], output)
