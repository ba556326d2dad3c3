"""A product of low rank in float64."""

from collections.abc import Mapping

from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.laurel import Laurel
from edgepress.exporter.model.parts.primitives import Rope


def forward(laurel: Laurel, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    return model.linear(laurel.right, model.linear(laurel.left, x))
