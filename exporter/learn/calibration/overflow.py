"""Which layers overflow float16: what calibration text makes of everything that would be float16 in a layer.

float16 ends at 65504. Text that was not seen may reach further, so that a layer stays in float32 when anything in it
comes within a factor of ``MARGIN`` of the end; and when a weight in it is beyond the end itself. Every value is looked
at but those inside attention, which is computed in float32, whether or not a host's onnxruntime has a float16 kernel
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import BATCH_TOKENS
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder, Layer, Linear, Norm, Weight, layer_weights

LARGEST = 65504.0  # of float16
MARGIN = 4.0


@dataclass(frozen=True)
class Peak:
    """The largest magnitude of a layer, and what has it."""

    magnitude: float
    what: str


def layers_in_float32(
    decoder: Decoder,
    read: Callable[[Weight], NDArray[np.float32]],
    tokens: NDArray[np.int64],
    text: str,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Layers that cannot compute in float16, such as ``layers.1``, and why.

    ``read`` gives a weight as the graph uses it; one layer's are held at a time. ``tokens`` (sequences, length) are of
    the text that ``text`` names.
    """
    found: dict[str, str] = {}
    ids = torch.from_numpy(np.asarray(tokens, np.int64))
    rotaries = network.rotaries(decoder, ids.shape[1])
    with torch.no_grad():
        x = network.embed(decoder, lambda weight: torch.from_numpy(read(weight)), ids)
        for index, layer in enumerate(decoder.layers):
            name = f"layers.{index}"
            values = {weight.name: torch.from_numpy(read(weight)) for weight in layer_weights(layer)}
            rotary = None if layer.attention.rope is None else rotaries[layer.attention.rope]
            size = max(1, BATCH_TOKENS // ids.shape[1])
            peaks = []
            for start in range(0, len(ids), size):
                x[start : start + size], peak = _pass(layer, name, values, x[start : start + size], rotary)
                peaks.append(peak)
            weight, largest = _largest_weight(values)
            peak = _larger(*peaks)
            if largest > LARGEST:
                found[name] = f"{weight} holds {largest:g}, and float16 ends at {LARGEST:g}"
            elif not peak.magnitude <= LARGEST / MARGIN:  # written so that NaN is caught too
                found[name] = (
                    f"{peak.what} reaches {peak.magnitude:.6g} on {tokens.size} tokens of {text}, above "
                    f"{LARGEST / MARGIN:g}: float16 ends at {LARGEST:g}, and unseen text gets a margin of {MARGIN:g}"
                )
            advance(1)
    return found


def _pass(
    layer: Layer, name: str, values: Mapping[str, Tensor], x: Tensor, rotary: network.Rotary | None
) -> tuple[Tensor, Peak]:
    """What the layer makes of the residual stream x (sequences, length, hidden), and the largest on the way."""

    def value(weight: Weight) -> Tensor:
        return values[weight.name]

    attention, mlp = layer.attention, layer.mlp
    peaks = [_peak(x, f"the residual stream before {name}")]
    peaks += [
        _bound(norm, value, width)
        for norm, width in ((attention.query_norm, attention.heads), (attention.key_norm, attention.kv_heads))
        if norm is not None
        for width in [attention.head_dim * (1 if attention.norm_per_head else width)]
    ]
    after = {
        attention.output.weight.name: (layer.attention_post_norm, f"the residual stream within {name}"),
        mlp.down.weight.name: (layer.mlp_post_norm, f"the residual stream after {name}"),
    }
    stream = x

    def tap(linears: tuple[Linear, ...], into: Tensor) -> Tensor:
        nonlocal stream
        peaks.append(_peak(into, f"what goes into {' and '.join(linear.weight.name for linear in linears)}"))
        for linear in linears:
            y = network.linear_forward(linear, value, into)
            peaks.append(_peak(y, f"what {linear.weight.name} gives"))
            if linear.weight.name in after:
                norm, place = after[linear.weight.name]
                y = layer.residual_multiplier * network.norm_forward(norm, value, y)
                stream = stream + y
                peaks.append(_peak(y, f"what {linear.weight.name} adds to the residual stream"))
                peaks.append(_peak(stream, place))
        return into

    y = network.layer_forward(layer, value, x, rotary, tap)
    return y, _larger(*peaks)


def _bound(norm: Norm, value: network.Values, width: int) -> Peak:
    """The most that a norm of q or k can give: a normed row of so many columns has no element above their root."""
    largest = width**0.5 * float(value(norm.weight).abs().max())
    bias = 0.0 if norm.bias is None else float(value(norm.bias).abs().max())
    return Peak(largest + bias, f"the bound of what {norm.weight.name} gives")


def _peak(x: Tensor, what: str) -> Peak:
    return Peak(float(x.abs().max()), what)


def _larger(*peaks: Peak) -> Peak:
    """The largest of them; NaN is larger than everything."""
    return max(peaks, key=lambda peak: float("inf") if np.isnan(peak.magnitude) else peak.magnitude)


def _largest_weight(values: Mapping[str, Tensor]) -> tuple[str, float]:
    sizes = {name: float(value.abs().max()) for name, value in values.items()}
    name = max(sizes, key=lambda name: sizes[name])
    return name, sizes[name]
