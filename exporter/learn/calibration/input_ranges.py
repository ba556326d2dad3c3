"""Static ranges of each projection's input: of a layer just rounded, or of the whole model once it is final."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.ranges import Histogram, find_range, to_scale
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, Layer, layer_weights, scaled_by_token
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.recipe.recipe import Activations as Asked

Ranges = dict[str, NDArray[Any]]
"""``name/input_scale`` (float32) and ``name/input_zero_point`` (uint8 or uint16), both (), of each projection."""


def layer_ranges(
    layer: Layer,
    values: operations.Values,
    inputs: Activations,
    rotaries: Mapping[str, operations.Rotary],
    asked: Asked,
    *,
    outputs: Activations | None = None,
) -> Ranges:
    """Ranges of one layer on its ``inputs``; it writes its ``outputs``, which may be ``inputs`` itself."""
    histograms: dict[str, Histogram] = {}
    by_token = scaled_by_token(layer)

    def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
        if linears[0].weight.stack or linears[0].weight.expert:  # which are no integer products
            return x
        seen = x
        if linears[0] in by_token:  # the graph scales each token to 1 there (graph/linears.py)
            seen = x / x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        histograms.setdefault(linears[0].weight.name, Histogram()).add(seen.cpu().numpy())
        for other in linears[1:]:
            histograms[other.weight.name] = histograms[linears[0].weight.name]
        return x

    for batch in inputs.batches():
        y = network.layer_forward(layer, values, inputs.read(batch), rotaries, tap)
        if outputs is not None:
            outputs.write(batch, y)
    kind = np.uint16 if asked.type == "uint16" else np.uint8
    found: Ranges = {}
    for name, histogram in histograms.items():
        bits = np.iinfo(kind).bits
        scale, zero_point = to_scale(*find_range(histogram, asked.ranges, asked.percentile, bits), bits)
        found[f"{name}/input_scale"] = np.array(scale, np.float32)
        found[f"{name}/input_zero_point"] = np.array(zero_point, kind)
    return found


def model_ranges(
    decoder: Decoder,
    stored: Callable[[Weight], Codes | Tensor],
    tokens: NDArray[np.int64],
    stream: Activations,
    asked: Asked,
    *,
    advance: Callable[[int], None],
) -> Ranges:
    """Ranges of every layer with the weights that will be ``stored``, for ``tokens`` (sequences, length).

    One layer's weights are held at a time; the residual stream passes through ``stream``, (sequences, length, hidden).
    ``advance`` is called with 1 after each layer.
    """
    device = torch.device(stream.device)
    rotaries = network.rotaries(decoder, tokens.shape[1], device)
    ids, places = np.unique(tokens, return_inverse=True)  # (rows,), (sequences, length)
    here = torch.from_numpy(ids).to(device)
    tables = {weight.name: _rows(stored(weight), here) for weight in decoder.tables}  # those that occur
    for batch in stream.batches():
        here = torch.from_numpy(places.reshape(tokens.shape)[batch]).to(device)
        x = network.embed(decoder, lambda w: tables[w.name] if w.name in tables else _values(stored(w)), here)
        stream.write(batch, x)
    found: Ranges = {}
    for layer in decoder.layers:
        values = {weight: _values(stored(weight)) for weight in layer_weights(layer)}
        found |= layer_ranges(layer, values.__getitem__, stream, rotaries, asked, outputs=stream)
        advance(1)
    return found


def _values(stored: Codes | Tensor) -> Tensor:
    return stored.dequantize() if isinstance(stored, Codes) else stored


def _rows(stored: Codes | Tensor, ids: Tensor) -> Tensor:
    if not isinstance(stored, Codes):
        return stored[ids]
    return Codes(stored.codes[ids], stored.scales[ids], stored.zero_points[ids], stored.scheme).dequantize()
