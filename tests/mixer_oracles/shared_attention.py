"""Attention to another layer's keys and values, in float64."""

from collections.abc import Mapping

from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.shared_attention import SharedAttention
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.attention import attended, rotate


def forward(a: SharedAttention, model: Oracle, x: Array, ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    q = model.norm(a.query_norm, model.linear(a.query, x).reshape(len(x), a.heads, a.head_dim))
    if a.rope is not None:
        q = rotate(ropes[a.rope], q)
    k, v = model.shared[a.stored_at]
    return model.linear(a.output, attended(q, k, v, scale=a.scale, window=a.window, softcap=a.softcap))
