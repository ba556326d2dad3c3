"""How much each input of a projection, or channel of the residual stream, matters, seen on text.

By activations, as Wanda scores weights (Sun et al. 2024, equation 1), summed over a column:
Sⱼ = Σᵣ |W[r, j]| · RMS(xⱼ), xⱼ being the input of that column. Layers are compared by what is added to the residual
stream: Sⱼ is divided by the RMS of the projection's output and multiplied by the RMS of what is added (a norm may come
between) over that of the stream. By loss: the first-order change of the next-token loss when xⱼ becomes 0 (Molchanov et
al. 2017, equation 6), the mean over tokens of |∂L/∂xⱼ · xⱼ|; where xⱼ is a channel of the residual stream, everything
that is added to it at that token becomes 0 together.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.methods.options import Options
from edgepress.exporter.methods.smaller.gradients import inputs_of, writes_of
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import operations
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.streams.streams import embedded, held, pass_layers

Scores = NDArray[np.float64]

WAYS = ("activations", "loss")


def input_scores(task: PruneTask, kind: type[Mixer], options: Options) -> list[Scores]:
    """Scores of the inputs of the output projection of each layer's mixer of a kind, (columns,) each.

    The options ``by`` and ``tokens`` say how, and on how many tokens of the text, about.
    """
    score = activation_scores if options["by"] == "activations" else loss_scores
    return score(task, task.tokens(int(options["tokens"])), kind)


def activation_scores(task: PruneTask, tokens: NDArray[np.int64], kind: type[Mixer]) -> list[Scores]:
    """Importance of the inputs of each layer's output projection, (columns,) each, on tokens (sequences, length)."""
    decoder = task.decoder
    blocks = [layer.block(kind) for layer in decoder.layers]
    linears_of = [block.mixer.output_projection for block in blocks]
    squares = [torch.zeros(linear.weight.shape[1], dtype=torch.float64) for linear in linears_of]
    outputs, added, streams = ([0.0] * len(decoder.layers) for _ in range(3))  # Σ of squares
    read: dict[int, operations.Values] = {}

    def tap(index: int, linears: tuple[Linear, ...], x: Tensor) -> None:
        linear, norm = linears_of[index], blocks[index].post_norm
        if linears[0] is not linear:
            return
        if index not in read:
            read.clear()
            gains = () if norm is None else (norm.weight, norm.bias)
            read[index] = held(task.read, (linear.weight, linear.bias, *gains))
        y = operations.linear_forward(linear, read[index], x)
        squares[index] += x.double().square().sum((0, 1)).cpu()
        outputs[index] += float(y.double().square().sum())
        y = blocks[index].multiplier * operations.norm_forward(norm, read[index], y)
        added[index] += float(y.double().square().sum())

    def seen(index: int, _before: Tensor, after: Tensor) -> None:
        streams[index] += float(after.double().square().sum())

    with (
        embedded(task.checkpoint, decoder, tokens, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(decoder.layers), "importance of inputs", " layers") as advance,
    ):
        pass_layers(task.checkpoint, decoder, [stream], seen=seen, tap=tap, advance=advance)
    found = []
    for index, linear in enumerate(linears_of):
        columns = task.read(linear.weight).abs().sum(0).double().cpu()  # (columns,)
        stream_square = streams[index] / (tokens.size * decoder.hidden_size)
        weight = (added[index] / max(outputs[index], 1e-300) / max(stream_square, 1e-300)) ** 0.5
        found.append((columns * (squares[index] / tokens.size).sqrt() * weight).numpy())
    return found


def loss_scores(task: PruneTask, tokens: NDArray[np.int64], kind: type[Mixer]) -> list[Scores]:
    """The same importance by the first-order change of the next-token loss."""
    found = [layer.block(kind).mixer.output_projection for layer in task.decoder.layers]
    sums = [torch.zeros(linear.weight.shape[1], dtype=torch.float64) for linear in found]

    def seen(index: int, _batch: slice, x: Tensor, slope: Tensor) -> None:
        if index >= 0:
            sums[index] += (x * slope).double().abs().sum((0, 1)).cpu()

    inputs_of(task, tokens, set(found), seen, "importance of inputs")
    return [(total / tokens.size).numpy() for total in sums]


def stream_loss_scores(task: PruneTask, tokens: NDArray[np.int64]) -> Scores:
    """Importance of each channel of the residual stream, (hidden,), by the loss, on tokens (sequences, length)."""
    shape = (*tokens.shape, task.decoder.hidden_size)
    changes = Activations(task.folder / "changes.f32", shape, task.device)  # Σ of ∂L/∂y · y over what is added to it

    def seen(_index: int, batch: slice, y: Tensor, slope: Tensor) -> None:
        changes.write(batch, changes.read(batch) + y * slope)

    try:
        writes_of(task, tokens, seen, "importance of channels")
        total = sum(change.double().abs().sum((0, 1)).cpu() for change in changes)
    finally:
        changes.path.unlink(missing_ok=True)
    found: Scores = (torch.as_tensor(total) / tokens.size).numpy()
    return found
