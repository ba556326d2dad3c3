"""Gradients of the next-token loss inside a model, a layer at a time, from the last to the first.

The inputs of each layer are kept on disk; in the backward pass each layer is computed once more for its own gradients
(Chen et al. 2016, arXiv:1604.06174). Memory is a layer, a piece of the head and a batch of tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import layer_weights
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.streams.head import loss_gradient
from edgepress.exporter.streams.streams import embedded, held, pass_layer

_TOKENS = 512  # whose gradients are computed at once

Watched = Callable[[int, slice, Tensor, Tensor], None]
"""Called with a layer's number (−1: the embedding), a batch, a watched tensor (sequences, length, …), its gradient."""

_Watch = Callable[[list[Tensor]], tuple[operations.Tap | None, operations.Added | None]]
"""Makes the hooks that put a layer's watched tensors into the list."""


def inputs_of(task: PruneTask, tokens: NDArray[np.int64], wanted: set[Linear], seen: Watched, label: str) -> None:
    """Call ``seen`` with the inputs of the projections ``wanted``, for tokens (sequences, length)."""

    def watch(watched: list[Tensor]) -> tuple[operations.Tap, operations.Added | None]:
        def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
            if linears[0] in wanted:
                watched.append(x)
            return x

        return tap, None

    _back(task, tokens, watch, seen, label)


def writes_of(task: PruneTask, tokens: NDArray[np.int64], seen: Watched, label: str) -> None:
    """Call ``seen`` with everything that is added to the residual stream, for tokens (sequences, length)."""

    def watch(watched: list[Tensor]) -> tuple[operations.Tap | None, operations.Added]:
        def added(y: Tensor) -> Tensor:
            watched.append(y)
            return y

        return None, added

    _back(task, tokens, watch, seen, label)


def _back(
    task: PruneTask,
    tokens: NDArray[np.int64],
    watch: _Watch,
    seen: Watched,
    label: str,
) -> None:
    decoder, shape = task.decoder, (*tokens.shape, task.decoder.hidden_size)
    layers = list(enumerate(decoder.layers))
    with ExitStack() as stack, task.progress(2 * len(layers), label, " layers") as advance:

        def stream(name: str) -> Activations:
            path = task.folder / f"{name}.f32"
            stack.callback(path.unlink, missing_ok=True)
            return Activations(path, shape, task.device)

        first = task.folder / "before-0000.f32"
        before = [stack.enter_context(embedded(task.checkpoint, decoder, tokens, first, task.device))]
        for index, layer in layers:
            before.append(stream(f"before-{index + 1:04}"))
            shutil.copyfile(before[index].path, before[-1].path)
            pass_layer(index, decoder, held(task.read, layer_weights(layer)), before[-1])
            advance(1)
        gradient = stream("gradient")
        _from_head(task, tokens, before[-1], gradient)
        for index, _ in reversed(layers):
            before[index + 1].path.unlink()
            _through_layer(task, index, before[index], gradient, watch=watch, seen=seen)
            advance(1)
        for batch in gradient.batches(_TOKENS):
            seen(-1, batch, before[0].read(batch), gradient.read(batch))


def _through_layer(
    task: PruneTask, index: int, before: Activations, gradient: Activations, *, watch: _Watch, seen: Watched
) -> None:
    """Replace the gradient of a layer's outputs by that of its inputs, in place."""
    layer = task.decoder.layers[index]
    rotaries = network.rotaries(task.decoder, before.shape[1], task.device)
    values = held(task.read, layer_weights(layer))
    for batch in gradient.batches(_TOKENS):
        x = before.read(batch).requires_grad_()
        watched: list[Tensor] = []
        tap, added = watch(watched)
        with torch.enable_grad():
            y = network.layer_forward(layer, values, x, rotaries, tap, added=added)
        passed, *found = torch.autograd.grad(y, [x, *watched], gradient.read(batch))
        gradient.write(batch, passed)
        for one, slope in zip(watched, found, strict=True):
            seen(index, batch, one.detach(), slope)


def _from_head(task: PruneTask, tokens: NDArray[np.int64], last: Activations, out: Activations) -> None:
    """Gradients of the loss by the outputs of the last layer; the last token predicts nothing."""
    for batch in last.batches(_TOKENS):
        x = last.read(batch)
        ids = torch.from_numpy(tokens[batch]).to(task.device)
        gradient = torch.zeros_like(x)
        found = loss_gradient(task.checkpoint, task.decoder, x[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        gradient[:, :-1] = found.reshape(x[:, :-1].shape)
        out.write(batch, gradient)
