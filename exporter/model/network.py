"""A decoder in torch, computed from its description: what calibration runs, differentiates and looks into.

Each mixer has its own steps (``mixers/<kind>.py``), made of :mod:`.operations`. Held against transformers, for every
architecture, in tests/exporter/model/test_network.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.model.copies import corrected, predicted, started, to_copies, united
from edgepress.exporter.model.description import AltUp, Block, Decoder, Layer, MultiToken, PerLayer
from edgepress.exporter.model.mixers import load_mixer
from edgepress.exporter.model.operations import (
    Added,
    Rotary,
    Step,
    Steps,
    StepsWithSide,
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
    if decoder.copies is not None:
        x = started(decoder.copies, values, x)
    if not decoder.side:
        return x
    found = torch.cat([x, *beside], dim=-1)
    return functional.pad(found, (0, decoder.stream_width - found.shape[-1]))  # keys and values that are to come


def per_layer_inputs(inputs: PerLayer, values: Values, tokens: Tensor, embedded: Tensor) -> Tensor:
    """What every layer gets of its tokens, (…, layers · width); ``embedded`` (…, hidden) is the stream as it begins."""
    table = values(inputs.table)
    rows = functional.embedding(torch.where(tokens < len(table), tokens, 0), table) * inputs.multiplier
    projected = linear_forward(inputs.projection, values, embedded)
    by_layer = projected.reshape(*projected.shape[:-1], -1, inputs.norm.weight.shape[0])
    normed = norm_forward(inputs.norm, values, by_layer).flatten(-2)
    return rows + inputs.scale * normed


@dataclass(frozen=True)
class _Given:
    """What all blocks of a layer compute with."""

    values: Values
    ropes: Mapping[str, Rotary]
    added: Added | None


def layer_steps(
    layer: Layer, values: Values, x: Tensor, ropes: Mapping[str, Rotary], added: Added | None = None
) -> Steps:
    """One decoder layer on the stream, (sequences, length, hidden and what is beside it) → the same, a step at a time.

    A projection's weights are asked for after its step was answered, so that they can be made in between.
    """
    width = layer.copies * layer.blocks[0].mixer.output_projection.weight.shape[0]
    x, side = x[..., :width], x[..., width:]
    given = _Given(values, ropes, added)
    if layer.altup is not None:
        x, side = yield from _around_copies(layer, layer.altup, given, x, side)
    else:
        for stage in layer.stages:
            x, side = yield from _stage(stage, given, x, side)
        if layer.scale is not None:
            x = x * values(layer.scale)
    return torch.cat([x, side], dim=-1) if side.shape[-1] else x


def _around_copies(layer: Layer, altup: AltUp, given: _Given, x: Tensor, side: Tensor) -> StepsWithSide:
    """All copies of the stream, (sequences, length, copies · hidden), after a layer; see :class:`AltUp`."""
    copies = predicted(altup, given.values, x.reshape(*x.shape[:-1], layer.copies, -1))
    active = copies[..., altup.active, :]
    for stage in layer.stages:
        if not stage[0].to_copies:
            active, side = yield from _stage(stage, given, active, side)
    copies = corrected(altup, given.values, copies, active)
    for stage in layer.stages:
        if stage[0].to_copies:
            outputs, side = yield from _outputs(stage, given, to_copies(altup, given.values, copies), side)
            more = torch.stack(outputs).sum(0)[..., None, :]
            copies = torch.cat([copies[..., :1, :], copies[..., 1:, :] + more], dim=-2)
    return copies.flatten(-2), side


def _stage(stage: tuple[Block, ...], given: _Given, x: Tensor, side: Tensor) -> StepsWithSide:
    """The stream after blocks that read the same, and what is beside it."""
    outputs, side = yield from _outputs(stage, given, x, side)
    if stage[-1].sum_norm is not None:
        outputs = [norm_forward(stage[-1].sum_norm, given.values, torch.stack(outputs).sum(0))]
    for y in outputs:
        x = x + y
    if stage[-1].stream_multiplier != 1.0:
        x = x * stage[-1].stream_multiplier
    return norm_forward(stage[-1].stream_norm, given.values, x), side


def _outputs(
    stage: tuple[Block, ...], given: _Given, x: Tensor, side: Tensor
) -> Generator[Step, Tensor, tuple[list[Tensor], Tensor]]:
    """What blocks that read x add to the stream, and what is beside it after them."""
    outputs = []
    for block in stage:
        kind, mixer = load_mixer(block.mixer.kind), block.mixer
        normed = norm_forward(block.norm, given.values, x)
        if kind.steps_with_side is not None and mixer.side:
            y, side = yield from kind.steps_with_side(mixer, given.values, normed, given.ropes, side)
        else:
            y = yield from kind.steps(mixer, given.values, normed, given.ropes)
        y = norm_forward(block.post_norm, given.values, y)
        y = block.multiplier * (normed + y if block.adds_input else y)
        outputs.append(y if given.added is None else given.added(y))
    return outputs, side


def final_forward(decoder: Decoder, values: Values, x: Tensor) -> Tensor:
    """Residual stream (…, hidden), whatever is beside it → what the final norm gives, (…, hidden)."""
    x = x[..., : decoder.copied_width]
    if decoder.copies is not None:
        x = united(decoder.copies, values, x.reshape(*x.shape[:-1], -1, decoder.hidden_size))
    if decoder.rotation is not None:
        x = rotate(decoder.rotation, x, back=True)
    return norm_forward(decoder.final_norm, values, x)


def head_steps(decoder: Decoder, values: Values, x: Tensor) -> Steps:
    """Residual stream (…, hidden), whatever is beside it → logits (…, vocabulary)."""
    x = final_forward(decoder, values, x)
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
    with torch.no_grad():
        x = embed(decoder, values, _row(tokens))
        found: NDArray[np.float32] = head_forward(decoder, values, _layers_forward(decoder, values, x))[0].numpy()
    return found


def final_states(decoder: Decoder, values: Values, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the final norm gives of each token of one text (length,), (length, hidden)."""
    with torch.no_grad():
        x = _layers_forward(decoder, values, embed(decoder, values, _row(tokens)))
        found: NDArray[np.float32] = final_forward(decoder, values, x)[0].numpy()
    return found


def further_logits(
    mtp: MultiToken, values: Values, tokens: NDArray[np.int64], hidden: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits (length, vocabulary) of what predicts a token further (:class:`MultiToken`).

    ``tokens`` (length,) are each the one after that of which its row of ``hidden`` (length, hidden) is what the
    decoder's final norm gave.
    """
    decoder = mtp.decoder
    with torch.no_grad():
        embedded = norm_forward(mtp.embedding_norm, values, embed(decoder, values, _row(tokens)))
        given = norm_forward(mtp.hidden_norm, values, torch.from_numpy(hidden)[None])
        x = linear_forward(mtp.projection, values, torch.cat([embedded, given], dim=-1))
        found: NDArray[np.float32] = head_forward(decoder, values, _layers_forward(decoder, values, x))[0].numpy()
    return found


def _row(tokens: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.asarray(tokens, np.int64))[None]


def _layers_forward(decoder: Decoder, values: Values, x: Tensor) -> Tensor:
    """The residual stream (1, length, stream_width) after every layer."""
    tables = rotaries(decoder, x.shape[1])
    for layer in decoder.layers:
        x = layer_forward(layer, values, x, tables)
    return x
