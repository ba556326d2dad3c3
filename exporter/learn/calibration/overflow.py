"""Which layers overflow float16: the largest values on calibration text of everything that would be float16 in a layer.

The largest float16 is 65504. Other text may give larger values, so a layer stays in float32 when any value in it comes
within a factor of ``MARGIN`` of that; and when one of its weights is larger. All values are examined but those inside
attention, which is computed in float32, whether or not a host's onnxruntime has a float16 kernel there; so is all that
another mixer computes across tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import BATCH_TOKENS
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, Layer, Linear, Norm, Weight, every, layer_weights

LARGEST = 65504.0  # of float16
MARGIN = 4.0


@dataclass(frozen=True)
class Peak:
    """The largest magnitude in a layer, and where it is."""

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
            size = max(1, BATCH_TOKENS // ids.shape[1])
            peaks = []
            for start in range(0, len(ids), size):
                x[start : start + size], peak = _pass(layer, name, values, x[start : start + size], rotaries)
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
    layer: Layer, name: str, values: Mapping[str, Tensor], x: Tensor, rotaries: Mapping[str, operations.Rotary]
) -> tuple[Tensor, Peak]:
    """The layer's outputs for the residual stream x (sequences, length, hidden), and the largest value in between."""

    def value(weight: Weight) -> Tensor:
        return values[weight.name]

    peaks = [_peak(x, f"the residual stream before {name}")]
    peaks += [_bound(norm, value) for block in layer.blocks for norm in every(Norm, block.mixer)]
    added = {block.mixer.output_projection.weight.name: block for block in layer.blocks}
    stream = x

    def tap(linears: tuple[Linear, ...], into: Tensor) -> Tensor:
        nonlocal stream
        peaks.append(_peak(into, f"what goes into {' and '.join(linear.weight.name for linear in linears)}"))
        for linear in linears:
            y = operations.linear_forward(linear, value, into)
            peaks.append(_peak(y, f"what {linear.weight.name} gives"))
            block = added.get(linear.weight.name)
            if block is not None:
                y = block.multiplier * operations.norm_forward(block.post_norm, value, y)
                stream = stream + y
                where = "after" if block is layer.blocks[-1] else "within"
                peaks.append(_peak(y, f"what {linear.weight.name} adds to the residual stream"))
                peaks.append(_peak(stream, f"the residual stream {where} {name}"))
        return into

    y = network.layer_forward(layer, value, x, rotaries, tap)
    return y, _larger(*peaks)


def _bound(norm: Norm, value: operations.Values) -> Peak:
    """The largest possible output of a norm inside a mixer: at most the root of a normed row's length."""
    largest = norm.weight.shape[0] ** 0.5 * float(value(norm.weight).abs().max())
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
