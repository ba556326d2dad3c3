"""A selective state space in float64, a token at a time: Mamba's recurrence as it is defined."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.mamba import Mamba
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.mamba2 import silu
from mixer_oracles.short_conv import causal_convolution


def forward(mamba: Mamba, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    x, z = np.split(model.linear(mamba.inputs, x), 2, axis=-1)
    x = silu(causal_convolution(model, mamba.kernel, mamba.bias, x))
    rank, size = mamba.step.weight.shape[1], mamba.decay.shape[1]
    low, b, c = np.split(model.linear(mamba.parameters, x), [rank, rank + size], axis=-1)
    if mamba.plain_norms is not None:
        low, b, c = (y / np.sqrt(np.mean(y**2, -1, keepdims=True) + mamba.plain_norms) for y in (low, b, c))
    low, b, c = (model.norm(n, y) for n, y in ((mamba.step_norm, low), (mamba.b_norm, b), (mamba.c_norm, c)))
    step = np.logaddexp(0, model.linear(mamba.step, low))  # (length, width)
    rate = -np.exp(model.weight(mamba.decay))  # (width, state_size)
    y, state = np.zeros_like(x), np.zeros_like(rate)
    for token in range(len(x)):
        state = np.exp(step[token][:, None] * rate) * state + np.outer(step[token] * x[token], b[token])
        y[token] = state @ c[token]
    return model.linear(mamba.output, (y + model.weight(mamba.skip) * x) * silu(z))
