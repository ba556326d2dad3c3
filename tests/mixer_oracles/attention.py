"""Attention in float64, a position's scores against all before it at once: no cache, nothing fused."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.primitives import Alibi, Rope


def forward(a: Attention, model: Oracle, x: Array, ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    length = len(x)
    widths = np.cumsum([a.heads * a.head_dim, a.kv_heads * a.head_dim])
    qkv = model.linear(a.qkv, x)
    q, k, v = np.split(np.clip(qkv, -a.clip, a.clip) if a.clip else qkv, widths, axis=-1)
    if not a.norm_per_head:
        q, k = model.norm(a.query_norm, q), model.norm(a.key_norm, k)
    q = q.reshape(length, a.heads, a.head_dim)
    k, v = (y.reshape(length, a.kv_heads, a.head_dim) for y in (k, v))
    if a.norm_per_head and not a.norm_after_rope:
        q, k = model.norm(a.query_norm, q), model.norm(a.key_norm, k)
    if a.rope is not None:
        q, k = (rotate(ropes[a.rope], y) for y in (q, k))
    if a.norm_after_rope:
        q, k = model.norm(a.query_norm, q), model.norm(a.key_norm, k)
    if a.rope is not None and (growth := ropes[a.rope].query_growth) is not None:
        q = q * (1 + growth[0] * np.log(1 + np.arange(length) // growth[1]))[:, None, None]
    if a.value_norm:
        v = v / np.sqrt(np.mean(v**2, -1, keepdims=True) + a.value_norm)
    if a.stored_at is not None:
        model.shared[a.stored_at] = k, v
    sinks = None if a.sinks is None else model.weight(a.sinks)
    y = attended(q, k, v, scale=a.scale, window=a.window, softcap=a.softcap, alibi=a.alibi, sinks=sinks)
    if a.gate is not None:
        shares = 1 / (1 + np.exp(-model.linear(a.gate, x)))
        y = y * np.repeat(shares, y.shape[-1] // shares.shape[-1], axis=-1)
    return model.linear(a.output, model.norm(a.inner_norm, y))


def attended(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    window: int | None,
    softcap: float,
    alibi: Alibi | None = None,
    sinks: Array | None = None,
) -> Array:
    """(length, heads, head_dim), with fewer heads of k and v → (length, heads · head_dim)."""
    length = len(q)
    k, v = (np.repeat(y, q.shape[1] // y.shape[1], axis=1) for y in (k, v))  # each kv head serves a group
    scores = np.einsum("ihd,jhd->hij", q, k) * scale  # (heads, query, key)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    i, j = np.ogrid[:length, :length]
    if alibi is not None:
        scores = scores + biases(alibi, j)
    scores = np.where((j <= i) & (j > i - (window or length)), scores, -np.inf)
    if sinks is not None:
        scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))], axis=-1)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares = (shares / shares.sum(-1, keepdims=True))[..., :length]  # a sink has no value
    return np.einsum("hij,jhd->ihd", shares, v).reshape(length, -1)


def biases(alibi: Alibi, j: Array) -> Array:
    """What ALiBi adds for keys at j (1, length), (heads, 1, length)."""
    slopes = np.array(alibi.slopes)[:, None, None]
    return to_bfloat16(slopes * to_bfloat16(j)) * alibi.factor if alibi.in_bfloat16 else slopes * j


def to_bfloat16(x: Array) -> Array:
    """Rounded to 8 bits of mantissa, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, 8)), exponent - 8)


def rotate(rope: Rope, x: Array) -> Array:
    """Rotate the pairs (d, d + rotated/2), or (2d, 2d + 1), of x (length, heads, head_dim)."""
    is_long = rope.long_inverse_frequencies is not None and len(x) > rope.long_from
    chosen = rope.long_inverse_frequencies if is_long else rope.inverse_frequencies
    angles = np.arange(len(x))[:, None, None] * np.array(chosen)  # (length, 1, rotated / 2)
    cos, sin = np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor
    half, y = angles.shape[-1], x.copy()
    for d in range(half):
        one, other = (2 * d, 2 * d + 1) if rope.interleaved else (d, d + half)
        y[..., one] = x[..., one] * cos[..., d] - x[..., other] * sin[..., d]
        y[..., other] = x[..., other] * cos[..., d] + x[..., one] * sin[..., d]
    return y
