"""Multi-head latent attention in float64, a head at a time."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.latent_attention import LatentAttention
from edgepress.exporter.model.parts.primitives import Rope


def forward(a: LatentAttention, model: Oracle, x: Array, ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    length = len(x)
    if a.query_latent is None:
        q = model.linear(a.query, x)
    else:
        q = model.linear(a.query, model.norm(a.query_norm, model.linear(a.query_latent, x)))
    q = q.reshape(length, a.heads, a.query_dim)
    latent = model.linear(a.latent, x)
    key_value = model.linear(a.key_value, model.norm(a.latent_norm, latent[:, : a.rank]))
    plain = key_value[:, : a.heads * a.plain].reshape(length, a.heads, a.plain)
    v = key_value[:, a.heads * a.plain :].reshape(length, a.heads, a.value_dim)
    shared = rotate(a, ropes[a.rope], latent[:, a.rank :])
    causal = np.tril(np.ones((length, length), bool))
    heads = []
    for head in range(a.heads):
        turned = rotate(a, ropes[a.rope], q[:, head, : a.rotated])
        scores = (turned @ shared.T + q[:, head, a.rotated :] @ plain[:, head].T) * a.scale
        shares = np.where(causal, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
        heads.append(shares / shares.sum(-1, keepdims=True) @ v[:, head])
    return model.linear(a.output, np.concatenate(heads, axis=-1))


def rotate(a: LatentAttention, rope: Rope, x: Array) -> Array:
    """Turn each pair of channels of x (length, rotated), as a complex number, by its angle."""
    is_long = rope.long_inverse_frequencies is not None and len(x) > rope.long_from
    chosen = rope.long_inverse_frequencies if is_long else rope.inverse_frequencies
    turn = np.exp(1j * np.outer(np.arange(len(x)), chosen)) * rope.attention_factor
    first, second = (x[:, ::2], x[:, 1::2]) if a.interleaved else np.split(x, 2, axis=-1)
    turned = (first + 1j * second) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)
