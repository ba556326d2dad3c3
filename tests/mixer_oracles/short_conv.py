"""A gated short convolution in float64, tap by tap."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.short_conv import ShortConv
from edgepress.exporter.model.parts.primitives import Rope, Weight


def forward(conv: ShortConv, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    b, c, inner = np.split(model.linear(conv.inputs, x), 3, axis=-1)
    return model.linear(conv.output, c * causal_convolution(model, conv.kernel, conv.bias, b * inner))


def causal_convolution(model: Oracle, weight: Weight, bias: Weight | None, x: Array) -> Array:
    """Each channel of x (length, channels) with its own taps, (channels, 1, taps); nothing before the first token."""
    kernel, taps = model.weight(weight), weight.shape[2]
    convolved = np.zeros_like(x)
    for back in range(min(taps, len(x))):  # the last tap is the present token's
        convolved[back:] += x[: len(x) - back] * kernel[:, 0, taps - 1 - back]
    return convolved if bias is None else convolved + model.weight(bias)
