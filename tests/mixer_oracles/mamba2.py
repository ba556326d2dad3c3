"""A state space with one decay a head in float64, a token at a time: Mamba-2's recurrence as it is defined."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.mamba2 import Mamba2
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.short_conv import causal_convolution


def forward(mamba: Mamba2, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    width, shared = mamba.heads * mamba.head_dim, mamba.state_groups * mamba.state_size
    ends = np.cumsum([width, width, shared, shared])
    parts = np.split(model.linear(mamba.inputs, x), ends, axis=-1)
    z, *convolved, step = [part * factor for part, factor in zip(parts, mamba.multipliers, strict=True)]
    inner = causal_convolution(model, mamba.kernel, mamba.bias, np.concatenate(convolved, axis=-1))
    inner, b, c = np.split(silu(inner), [width, width + shared], axis=-1)
    step = np.clip(np.logaddexp(0, step + model.weight(mamba.step_bias)), *mamba.step_limits)  # (length, heads)
    inner = inner.reshape(-1, mamba.heads, mamba.head_dim)
    b, c = (np.repeat(y.reshape(len(y), -1, mamba.state_size), mamba.heads // mamba.state_groups, 1) for y in (b, c))
    y, state = np.zeros_like(inner), np.zeros((mamba.heads, mamba.state_size, mamba.head_dim))
    rate = -np.exp(model.weight(mamba.decay))
    for token, size in enumerate(step):
        state = np.exp(rate * size)[:, None, None] * state
        state += b[token][:, :, None] * (size[:, None] * inner[token])[:, None, :]
        y[token] = np.einsum("hnp,hn->hp", state, c[token])
    y = (y + model.weight(mamba.skip)[:, None] * inner).reshape(len(y), -1)
    if mamba.norm is None:
        return model.linear(mamba.output, y * silu(z))
    if not mamba.norm_before_gate:
        y = y * silu(z)
    parts = y.reshape(len(y), mamba.state_groups, -1)
    parts = parts / np.sqrt(np.mean(parts**2, -1, keepdims=True) + mamba.norm.epsilon)
    y = parts.reshape(y.shape) * model.weight(mamba.norm.weight)
    return model.linear(mamba.output, y * silu(z) if mamba.norm_before_gate else y)


def silu(x: Array) -> Array:
    """x · sigmoid(x)."""
    return x / (1 + np.exp(-x))
