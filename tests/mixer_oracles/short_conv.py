"""A gated short convolution in float64, tap by tap."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.description import Rope
from edgepress.exporter.model.mixers.short_conv import ShortConv


def forward(conv: ShortConv, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    b, c, inner = np.split(model.linear(conv.inputs, x), 3, axis=-1)
    gated, kernel = b * inner, model.weight(conv.kernel)
    convolved = np.zeros_like(gated)
    for back in range(min(conv.taps, len(x))):  # the last tap is the present token's
        convolved[back:] += gated[: len(x) - back] * kernel[:, 0, conv.taps - 1 - back]
    if conv.bias is not None:
        convolved += model.weight(conv.bias)
    return model.linear(conv.output, c * convolved)
