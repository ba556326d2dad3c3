"""A decoder in torch, computed from its description: what calibration runs, differentiates and looks into.

Each mixer has its own steps (``mixers/<kind>.py``), made of :mod:`.operations`. Held against transformers, for every
architecture, in tests/exporter/model/test_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.model.description import Decoder, Layer, PerLayer
from edgepress.exporter.model.mixers import load_mixer
from edgepress.exporter.model.operations import (
    Added,
    Rotary,
    Steps,
    Tap,
    Values,
    linear_forward,
    norm_forward,
    rotate,
    run,
)
from edgepress.exporter.model.rope import query_factors, rope_tables


def rotaries(decoder: Decoder, length: int, device: torch.device | str = "cpu") -> dict[str, Rotary]:
    """Tables of every rope of ``decoder`` for sequences of ``length`` tokens from position 0."""
    found = {}
    for name, rope in decoder.ropes.items():
        cos, sin = (torch.tensor(table, device=device) for table in rope_tables(rope, length))
        grown = None if rope.query_growth is None else torch.tensor(query_factors(rope.query_growth, length))
        found[name] = Rotary(cos, sin, rope.interleaved, None if grown is None else grown.to(device))
    return found


def embed(decoder: Decoder, values: Values, tokens: Tensor) -> Tensor:
    """Tokens (sequences, length) → residual stream and what is beside it, (sequences, length, stream_width)."""
    x = functional.embedding(tokens, values(decoder.embedding)) * decoder.embedding_multiplier
    if decoder.embedding_projection is not None:
        x = linear_forward(decoder.embedding_projection, values, x)
    if decoder.positions is not None:
        x = x + values(decoder.positions)[: tokens.shape[1]]
    x = norm_forward(decoder.embedding_norm, values, x)
    beside = [] if decoder.per_layer is None else [per_layer_inputs(decoder.per_layer, values, tokens, x)]
    if decoder.rotation is not None:
        x = rotate(decoder.rotation, x)
    if not decoder.side:
        return x
    found = torch.cat([x, *beside], dim=-1)
    return functional.pad(found, (0, decoder.stream_width - found.shape[-1]))  # keys and values that are to come


def per_layer_inputs(inputs: PerLayer, values: Values, tokens: Tensor, embedded: Tensor) -> Tensor:
    """What every layer gets of its tokens, (…, layers · width); ``embedded`` (…, hidden) is the stream as it begins."""
    rows = functional.embedding(tokens, values(inputs.table)) * inputs.multiplier
    projected = linear_forward(inputs.projection, values, embedded)
    by_layer = projected.reshape(*projected.shape[:-1], -1, inputs.norm.weight.shape[0])
    normed = norm_forward(inputs.norm, values, by_layer).flatten(-2)
    return rows + inputs.scale * normed


def layer_steps(
    layer: Layer, values: Values, x: Tensor, ropes: Mapping[str, Rotary], added: Added | None = None
) -> Steps:
    """One decoder layer on the stream, (sequences, length, hidden and what is beside it) → the same, a step at a time.

    A projection's weights are asked for after its step was answered, so that they can be made in between.
    """
    hidden = layer.blocks[0].mixer.output_projection.weight.shape[0]
    x, side = x[..., :hidden], x[..., hidden:]
    for stage in layer.stages:
        before = x
        for block in stage:
            kind, mixer = load_mixer(block.mixer.kind), block.mixer
            normed = norm_forward(block.norm, values, before)
            if kind.steps_with_side is not None and mixer.side:
                y, side = yield from kind.steps_with_side(mixer, values, normed, ropes, side)
            else:
                y = yield from kind.steps(mixer, values, normed, ropes)
            y = block.multiplier * norm_forward(block.post_norm, values, y)
            x = x + (y if added is None else added(y))
        x = norm_forward(stage[-1].stream_norm, values, x)
    if layer.scale is not None:
        x = x * values(layer.scale)
    return torch.cat([x, side], dim=-1) if side.shape[-1] else x


def head_steps(decoder: Decoder, values: Values, x: Tensor) -> Steps:
    """Residual stream (…, hidden), whatever is beside it → logits (…, vocabulary)."""
    x = x[..., : decoder.hidden_size]
    if decoder.rotation is not None:
        x = rotate(decoder.rotation, x, back=True)
    x = norm_forward(decoder.final_norm, values, x)
    if decoder.head_projection is not None:
        x = linear_forward(decoder.head_projection, values, x)
    x = yield (decoder.head,), x
    logits = linear_forward(decoder.head, values, x) * decoder.logits_multiplier
    cap = decoder.logits_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


def layer_forward(
    layer: Layer,
    values: Values,
    x: Tensor,
    ropes: Mapping[str, Rotary],
    tap: Tap | None = None,
    *,
    added: Added | None = None,
) -> Tensor:
    """One decoder layer on the residual stream, (sequences, length, hidden) → the same."""
    return run(layer_steps(layer, values, x, ropes, added), tap)


def head_forward(decoder: Decoder, values: Values, x: Tensor, tap: Tap | None = None) -> Tensor:
    """Residual stream (…, hidden) → logits (…, vocabulary)."""
    return run(head_steps(decoder, values, x), tap)


def logits(decoder: Decoder, values: Values, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits (length, vocabulary) of one text (length,); ``values`` is asked for a weight when it is needed."""
    ids = torch.from_numpy(np.asarray(tokens, np.int64))[None]
    tables = rotaries(decoder, ids.shape[1])
    with torch.no_grad():
        x = embed(decoder, values, ids)
        for layer in decoder.layers:
            x = layer_forward(layer, values, x, tables)
        found: NDArray[np.float32] = head_forward(decoder, values, x)[0].numpy()
    return found
