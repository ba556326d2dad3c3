"""The KL by which changes to some weights move the whole model's logits, computed from the changed layer on.

The residual stream that enters each layer of the unchanged model is kept on disk (:class:`BaseRun`), so that a change
to layer i of L costs L − i layers and the head, and one reading of their weights serves many changes. For v changes in
every layer that is v · L² / 2 layer passes instead of v · L²; weights are held one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, layer_weights
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.finite import check_figure

_STREAM_BYTES = 256 << 20  # residual streams of changed models that are held at a time
_LOGIT_BYTES = 32 << 20  # logits of one model that are held at a time

Change = Mapping[str, Callable[[], Tensor]]
"""Weights that differ from the base's, by name; each is made when its layer is reached."""


class BaseRun:
    """One model's residual stream before every layer and before the head, for ``tokens`` (sequences, length).

    ``read`` gives a weight in float32 on ``device``; a head that is tied is asked for as the embedding. Logits are
    compared from position ``first`` on.
    """

    def __init__(
        self,
        decoder: Decoder,
        read: operations.Values,
        tokens: NDArray[np.int64],
        directory: Path,
        device: torch.device | str = "cpu",
        *,
        first: int = 0,
    ) -> None:
        self.decoder, self.read, self.tokens, self.device, self.first = decoder, read, tokens, device, first
        shape = (*tokens.shape, decoder.stream_width)
        self.streams = [
            Activations(directory / f"stream-{index:04}.f32", shape, device) for index in range(len(decoder.layers) + 1)
        ]
        self.rotaries = network.rotaries(decoder, tokens.shape[1], device)

    def run(self, advance: Callable[[int], None] = lambda _: None) -> None:
        """Fill the streams; ``advance`` is called with 1 after each layer.

        Raises:
            InputError: a layer gives NaN or infinite activations.

        """
        with torch.no_grad():
            embedded = self.embed({})
            for batch in self.streams[0].batches():
                self.streams[0].write(batch, embedded[batch])
            for index in range(len(self.decoder.layers)):
                values = self.layer_values(index)
                for batch in self.streams[index].batches():
                    x = self.layer(index, values, self.streams[index].read(batch))
                    if not bool(torch.isfinite(x).all()):
                        raise InputError(
                            f"layer {index} gives NaN or infinite activations on the calibration text; the checkpoint "
                            "overflows in float32 there: take another one, or another text"
                        )
                    self.streams[index + 1].write(batch, x)
                advance(1)

    def remove(self) -> None:
        """Delete the streams' files."""
        for stream in self.streams:
            stream.path.unlink(missing_ok=True)

    def embed(self, change: Change) -> Tensor:
        """The inputs of layer 0, (sequences, length, hidden)."""
        tables = {weight.name: self._made(weight, change) for weight in self._embedding_weights()}
        return network.embed(
            self.decoder, lambda weight: tables[weight.name], torch.from_numpy(self.tokens).to(self.device)
        )

    def layer_values(self, index: int) -> dict[str, Tensor]:
        """Every weight of a layer, by name."""
        return {weight.name: self.read(weight) for weight in layer_weights(self.decoder.layers[index])}

    def layer(self, index: int, values: Mapping[str, Tensor], x: Tensor, tap: operations.Tap | None = None) -> Tensor:
        """Compute a layer on the residual stream; ``tap`` is called with the inputs of its projections."""
        layer = self.decoder.layers[index]
        return network.layer_forward(layer, lambda weight: values[weight.name], x, self.rotaries, tap)

    def head_values(self, change: Change) -> dict[str, Tensor]:
        """Weights of the final norm and the head, by name."""
        return {weight.name: self._made(weight, change) for weight in self._head_weights()}

    def is_head_changed(self, change: Change) -> bool:
        """Whether ``change`` has a weight of the final norm or the head."""
        return any(weight.name in change for weight in self._head_weights())

    def logits(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Residual stream (rows, hidden) → logits (rows, vocabulary)."""
        return network.head_forward(self.decoder, lambda weight: values[self._owner(weight).name], x)

    def final(self) -> Tensor:
        """The inputs of the final norm where logits are compared, (tokens, hidden)."""
        return torch.cat(list(self.streams[-1]))[:, self.first :].flatten(0, 1)

    def _made(self, weight: Weight, change: Change) -> Tensor:
        make = change.get(weight.name)
        return self.read(weight) if make is None else make()

    def _owner(self, weight: Weight) -> Weight:
        """The weight whose bytes are used: a tied head's are the embedding's."""
        is_tied_head = self.decoder.tied and weight.name == self.decoder.head.weight.name
        return self.decoder.embedding if is_tied_head else weight

    def _embedding_weights(self) -> list[Weight]:
        return list(self.decoder.embedding_weights())

    def _head_weights(self) -> list[Weight]:
        return [*self.decoder.head_weights(), self._owner(self.decoder.head.weight)]


def first_layer(decoder: Decoder, names: Sequence[str]) -> int:
    """The first place that a change of the named weights touches: −1 embedding, i a layer, their number the head."""
    if any(weight.name in names for weight in decoder.embedding_weights()):
        return -1
    for index, layer in enumerate(decoder.layers):
        if any(weight.name in names for weight in layer_weights(layer)):
            return index
    return len(decoder.layers)


def passes(decoder: Decoder, start: int) -> int:
    """How many steps :func:`divergences` advances for one change that starts at ``start``."""
    return len(decoder.layers) - max(start, 0) + 1


def divergences(
    base: BaseRun,
    reference: BaseRun,
    start: int,
    changes: Sequence[Change],
    advance: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """KL(reference ‖ base with a change), nats per token over the positions that are compared, of each change.

    ``start`` is the first place that the changes touch, as :func:`first_layer` gives it. Both runs have run, and
    compare the same positions.
    """
    at_once = max(1, _STREAM_BYTES // (4 * base.tokens.size * base.decoder.hidden_size))
    found: list[float] = []
    with torch.no_grad():
        for first in range(0, len(changes), at_once):
            found += _divergences(base, reference, start, changes[first : first + at_once], advance)
    return [check_figure(kl, "the KL divergence of a changed model on the text") for kl in found]


def _divergences(
    base: BaseRun, reference: BaseRun, start: int, changes: Sequence[Change], advance: Callable[[int], None]
) -> list[float]:
    count = len(base.decoder.layers)
    batches = base.streams[0].batches()
    if start < 0:
        streams = [base.embed(change) for change in changes]  # each (sequences, length, hidden)
    else:
        streams = [torch.cat(list(base.streams[start]))] * len(changes)
    for index in range(max(start, 0), count):
        values = base.layer_values(index)
        for number, change in enumerate(changes):
            own = {name: change[name]() if name in change else value for name, value in values.items()}
            streams[number] = torch.cat([base.layer(index, own, streams[number][batch]) for batch in batches])
            advance(1)
    return _head_divergences(base, reference, [x[:, base.first :].flatten(0, 1) for x in streams], changes, advance)


def _head_divergences(
    base: BaseRun,
    reference: BaseRun,
    streams: Sequence[Tensor],
    changes: Sequence[Change],
    advance: Callable[[int], None],
) -> list[float]:
    """The head on each stream, (tokens, hidden), beside the reference's, some rows at a time."""
    expected, reference_values = reference.final(), reference.head_values({})
    rows = max(1, _LOGIT_BYTES // (4 * base.decoder.vocab_size))
    found = [0.0] * len(changes)

    def add(values: Mapping[str, Tensor], numbers: Sequence[int]) -> None:
        for begin in range(0, len(expected), rows):
            piece = slice(begin, begin + rows)
            logits = reference.logits(reference_values, expected[piece])
            for number in numbers:
                found[number] += kl_sum(logits, base.logits(values, streams[number][piece])) / len(expected)
        advance(len(numbers))

    changed = [number for number, change in enumerate(changes) if base.is_head_changed(change)]
    plain = [number for number in range(len(changes)) if number not in changed]
    if plain:
        add(reference_values if base is reference else base.head_values({}), plain)
    for number in changed:
        add(base.head_values(changes[number]), [number])
    return found


def kl_sum(reference: Tensor, logits: Tensor) -> float:
    """Σ over rows of KL(reference ‖ logits), both (rows, vocabulary).

    With d = logits − reference and its mean m under the reference p: KL = log E_p[exp(d − m)]. Small differences are
    not lost beside the logits' own size, so float32 is enough.
    """
    log_p = reference.log_softmax(-1)
    difference = logits - reference
    for _ in range(2):  # the second time removes what rounding left of a large mean
        difference = difference - (log_p.exp() * difference).sum(-1, keepdim=True)
    largest = float(difference.max())
    if largest < 1:
        each = torch.log1p((log_p.exp() * torch.expm1(difference)).sum(-1))
    else:
        each = torch.logsumexp(log_p + difference, -1)
    return float(each.double().sum())
