"""Runs text through a model one layer at a time, the residual stream on disk: memory is one layer and a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, layer_weights, rows_read
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint

Seen = Callable[[int, Tensor, Tensor], None]
"""Called with a layer's number, and the residual stream before and after it, (sequences, length, hidden) each."""

Tap = Callable[[int, tuple[Linear, ...], Tensor], None]
"""Called with a layer's number, projections that share their input, and that input, (sequences, length, columns)."""


def values_of(checkpoint: Checkpoint, device: torch.device) -> operations.Values:
    """Weights of a checkpoint in float32, read each time that they are asked for."""
    return lambda weight: torch.from_numpy(read_weight(checkpoint, weight)).to(device)


def held(read: operations.Values, weights: Iterable[Weight | None]) -> operations.Values:
    """The same weights, read now and kept; None among them is passed over."""
    kept = {weight.name: read(weight) for weight in weights if weight is not None}
    return lambda weight: kept[weight.name]


@contextmanager
def embedded(
    checkpoint: Checkpoint, decoder: Decoder, tokens: NDArray[np.int64], path: Path, device: torch.device
) -> Iterator[Activations]:
    """The residual stream of ``tokens`` (sequences, length) before the first layer, in a file while the block runs.

    Only the rows of the table that occur are read.
    """
    stream = Activations(path, (*tokens.shape, decoder.stream_width), device)
    read = values_of(checkpoint, device)
    ids, places = np.unique(tokens, return_inverse=True)  # (rows,), (sequences, length)
    tables = {weight.name: torch.from_numpy(_rows(checkpoint, weight, ids)).to(device) for weight in decoder.tables}

    def values(weight: Weight) -> Tensor:
        return tables[weight.name] if weight.name in tables else read(weight)

    try:
        with torch.no_grad():
            for batch in stream.batches():
                ids_of_batch = torch.from_numpy(places.reshape(tokens.shape)[batch]).to(device)
                stream.write(batch, network.embed(decoder, values, ids_of_batch))
        yield stream
    finally:
        path.unlink(missing_ok=True)


def _rows(checkpoint: Checkpoint, weight: Weight, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a table, (rows, columns)."""
    (part,) = weight.parts
    rows = [checkpoint.part_rows(part, i, i + 1) for i in rows_read(weight, ids)]
    return np.concatenate(rows) + np.float32(weight.plus)


def pass_layer(
    index: int,
    decoder: Decoder,
    values: operations.Values,
    stream: Activations,
    *,
    seen: Seen | None = None,
    tap: Tap | None = None,
) -> None:
    """Run one layer on the stream, in place.

    Raises:
        InputError: the layer gives NaN or infinite activations.

    """
    layer = decoder.layers[index]
    rotaries = network.rotaries(decoder, stream.shape[1], stream.device)

    def look(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
        if tap is not None:
            tap(index, linears, x)
        return x

    with torch.no_grad():
        for batch in stream.batches():
            before = stream.read(batch)
            after = network.layer_forward(layer, values, before, rotaries, look)
            if not bool(torch.isfinite(after).all()):
                raise InputError(
                    f"layer {index} gives NaN or infinite activations on the text; the checkpoint overflows in float32 "
                    "there: take another one, or another text"
                )
            if seen is not None:
                seen(index, before, after)
            stream.write(batch, after)


def pass_layers(
    checkpoint: Checkpoint,
    decoder: Decoder,
    streams: list[Activations],
    *,
    seen: Seen | None = None,
    tap: Tap | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run all layers on every stream, in place; each layer is read once, ``advance`` is called with 1 after it."""
    for index, layer in enumerate(decoder.layers):
        device = torch.device(streams[0].device)
        values = held(values_of(checkpoint, device), layer_weights(layer))
        for stream in streams:
            pass_layer(index, decoder, values, stream, seen=seen, tap=tap)
        del values  # before the next layer is read
        advance(1)
