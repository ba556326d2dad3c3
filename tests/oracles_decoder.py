"""A decoder's logits in numpy float64, written from the description alone: what the graph must compute.

Slow and plain: no cache, no fused operators, one sequence. Independent of onnxruntime and of torch.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.model.description import AltUp, Decoder, Layer, Mixer, PerLayer
from edgepress.exporter.model.parts.primitives import Linear, Norm, Rope, Weight
from edgepress.exporter.model.rotation import factors

Array = NDArray[np.float64]
Read = Callable[[str], NDArray[np.float32]]


def forward(
    decoder: Decoder,
    read: Read,
    tokens: NDArray[np.int64],
    rounding: Callable[[Linear, Array], Array] | None = None,
) -> Array:
    """Return logits (length, vocabulary); ``read`` gives a checkpoint tensor by name.

    With ``rounding``, what goes into a projection is first rounded as that function says.
    """
    model = Oracle(read, rounding)
    x = model.weight(decoder.embedding)[tokens] * decoder.embedding_multiplier  # (length, hidden)
    if decoder.embedding_projection is not None:
        x = model.linear(decoder.embedding_projection, x)
    if decoder.positions is not None:
        x = x + model.weight(decoder.positions)[: len(tokens)]
    x = model.norm(decoder.embedding_norm, x)
    if decoder.per_layer is not None:
        model.per_layer = per_layer_inputs(decoder.per_layer, model, tokens, x)
    rotation = np.kron(*factors(decoder.rotation)) if decoder.rotation is not None else np.eye(decoder.hidden_size)
    x = x @ rotation
    if decoder.copies is not None:
        others = model.linear(decoder.copies.projection, x).reshape(len(tokens), -1, decoder.hidden_size)
        copies = [x, *(resized(others[:, index], x, decoder.copies.least) for index in range(others.shape[1]))]
    for layer in decoder.layers:
        if layer.altup is None:
            x = through(layer, decoder, model, x)
        else:
            copies = around_blocks(layer, layer.altup, decoder, model, copies)
        if layer.scale is not None:
            x = x * model.weight(layer.scale)
    if decoder.copies is not None:
        back = [model.linear(linear, copy) for linear, copy in zip(decoder.copies.back, copies[1:], strict=True)]
        x = np.mean([copies[0], *(resized(y, copies[0], decoder.copies.least) for y in back)], axis=0)
    x = model.norm(decoder.final_norm, x @ rotation.T)
    if decoder.head_projection is not None:
        x = model.linear(decoder.head_projection, x)
    logits = model.linear(decoder.head, x) * decoder.logits_multiplier
    cap = decoder.logits_softcap
    return cap * np.tanh(logits / cap) if cap else logits


def through(layer: Layer, decoder: Decoder, model: "Oracle", x: Array) -> Array:
    """The stream (length, hidden) after the blocks of a layer."""
    for stage in layer.stages:
        total = np.zeros_like(x)
        for block in stage:
            normed = model.norm(block.norm, x)
            mixed = mixer_oracle(block.mixer.kind)(block.mixer, model, normed, decoder.ropes)
            y = model.norm(block.post_norm, mixed)
            total += block.multiplier * (normed + y if block.adds_input else y)
        last = stage[-1]
        x = model.norm(last.stream_norm, (x + model.norm(last.sum_norm, total)) * last.stream_multiplier)
    return x


def around_blocks(layer: Layer, altup: AltUp, decoder: Decoder, model: "Oracle", copies: list[Array]) -> list[Array]:
    """All copies (length, hidden) after a layer, a copy at a time (Baykal et al. 2023, algorithm 1)."""
    count, active = len(copies), altup.active

    def mixing(x: Array) -> Array:
        return np.tanh(model.linear(altup.router, model.norm(altup.router_norm, x)) / decoder.hidden_size)

    shares = model.linear(altup.prediction, mixing(copies[active])).reshape(-1, count, count)
    predicted = [
        copies[i] + sum(shares[:, i, j, None] * copies[j] for j in range(count)) for i in range(count)
    ]  # each (length, hidden)
    on_active = Layer(tuple(block for block in layer.blocks if not block.to_copies))
    to_copies = Layer(tuple(replace(block, to_copies=False) for block in layer.blocks if block.to_copies))
    y = through(on_active, decoder, model, predicted[active])
    factors = 1 + model.linear(altup.correction, mixing(y))
    corrected = [predicted[i] + factors[:, i, None] * (y - predicted[active]) for i in range(count)]
    x = corrected[active] * (1.0 if altup.output_scale is None else model.weight(altup.output_scale))
    more = through(to_copies, decoder, model, x) - x
    return [corrected[0], *(copy + more for copy in corrected[1:])]


def resized(y: Array, x: Array, least: float) -> Array:
    """``y`` with the root mean square of ``x``; its own mean square counts as ``least`` at least."""
    own = np.sqrt(np.maximum(np.mean(y**2, -1, keepdims=True), least))
    return y * np.sqrt(np.mean(x**2, -1, keepdims=True)) / own


def per_layer_inputs(inputs: PerLayer, model: "Oracle", tokens: NDArray[np.int64], x: Array) -> Array:
    """(length, layers · width): rows of the table, and what is embedded projected and normed for each layer apart."""
    projected = model.linear(inputs.projection, x).reshape(len(tokens), -1, inputs.norm.weight.shape[0])
    table = model.weight(inputs.table)
    rows = table[[token if token < len(table) else 0 for token in tokens]] * inputs.multiplier
    return rows + inputs.scale * model.norm(inputs.norm, projected).reshape(len(tokens), -1)


def mixer_oracle(kind: str) -> Callable[[Mixer, "Oracle", Array, Mapping[str, Rope]], Array]:
    """The oracle of a kind: a file of its name."""
    found: Callable[[Mixer, Oracle, Array, Mapping[str, Rope]], Array]
    found = importlib.import_module(f"mixer_oracles.{kind}").forward
    return found


class Oracle:
    """The weights of a decoder and what mixers are made of, in float64."""

    def __init__(self, read: Read, rounding: Callable[[Linear, Array], Array] | None = None) -> None:
        self.read, self.rounding = read, rounding
        self.per_layer = np.zeros((0, 0))  # (length, layers · width)
        self.shared: dict[
            int, tuple[Array, Array]
        ] = {}  # keys and values by where they stand, (length, heads, head_dim)

    def weight(self, weight: Weight) -> Array:
        if not weight.parts:
            return np.full(weight.shape, weight.plus)
        pieces = []
        for part in weight.parts:
            tensor = self.read(part.tensor) if part.index is None else self.read(part.tensor)[part.index]
            pieces.append((tensor.T if part.transposed else tensor)[part.start : part.stop].astype(np.float64))
        whole = np.concatenate(pieces)
        if weight.interleaved:
            first, second = pieces
            whole[0::2], whole[1::2] = first, second
        assert whole.shape == weight.shape, (weight.name, whole.shape, weight.shape)
        return whole + weight.plus

    def linear(self, linear: Linear, x: Array) -> Array:
        if self.rounding is not None:
            x = self.rounding(linear, x)
        y = x @ self.weight(linear.weight).T
        return y if linear.bias is None else y + self.weight(linear.bias)

    def norm(self, norm: Norm | None, x: Array) -> Array:
        if norm is None:
            return x
        centred = x - x.mean(-1, keepdims=True) if norm.kind == "layer" else x
        gain = self.weight(norm.weight)
        rows = (-1, x.shape[-1]) if gain.size > x.shape[-1] else (x.shape[-1],)  # a gain for each of (…, rows, width)
        y = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + norm.epsilon) * gain.reshape(rows)
        return y if norm.bias is None else y + self.weight(norm.bias).reshape(rows)


def round_to_int8(x: Array, block: int) -> Array:
    """Round each block of ``block`` columns to 127 steps of its largest magnitude, as MLAS does before int8 products.

    In float32 and in MLAS's order: quantized embeddings lie on exact ties, which only the same rounding errors decide.
    """
    rows, columns = x.shape
    blocks = np.pad(x, ((0, 0), (0, -columns % block))).reshape(rows, -1, block).astype(np.float32)
    largest = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(1e-30))
    codes = np.round(blocks * (np.float32(127) / largest))
    step = largest / np.float32(127)
    return (codes * step).astype(np.float64).reshape(rows, -1)[:, :columns]
