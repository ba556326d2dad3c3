"""Linear attention by the gated delta rule in float64, a token at a time: the recurrence as it is defined."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.gated_delta import GatedDelta
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.short_conv import causal_convolution


def forward(delta: GatedDelta, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    keys, width = delta.key_heads * delta.key_dim, delta.value_heads * delta.value_dim
    inner, z = np.split(model.linear(delta.inputs, x), [2 * keys + width], axis=-1)
    b, a = np.split(model.linear(delta.rates, x), 2, axis=-1)
    q, k, v = np.split(silu(causal_convolution(model, delta.kernel, None, inner)), [keys, 2 * keys], axis=-1)
    q, k = (y.reshape(-1, delta.key_heads, delta.key_dim) for y in (q, k))
    q, k = (y / np.sqrt((y**2).sum(-1, keepdims=True) + 1e-6) for y in (q, k))
    q, k = (np.repeat(y, delta.value_heads // delta.key_heads, axis=1) for y in (q, k))
    v = v.reshape(-1, delta.value_heads, delta.value_dim)
    alpha = np.exp(-np.exp(model.weight(delta.decay)) * np.logaddexp(0, a + model.weight(delta.step_bias)))
    beta = delta.largest_rate / (1 + np.exp(-b))
    y, state = np.zeros_like(v), np.zeros((delta.value_heads, delta.key_dim, delta.value_dim))
    for token in range(len(x)):
        state = alpha[token][:, None, None] * state
        held = np.einsum("hkv,hk->hv", state, k[token])
        state += k[token][:, :, None] * (beta[token][:, None] * (v[token] - held))[:, None, :]
        y[token] = np.einsum("hkv,hk->hv", state, q[token]) / np.sqrt(delta.key_dim)
    return model.linear(delta.output, model.norm(delta.norm, y).reshape(len(x), -1) * silu(z))


def silu(x: Array) -> Array:
    """x · sigmoid(x)."""
    return x / (1 + np.exp(-x))
