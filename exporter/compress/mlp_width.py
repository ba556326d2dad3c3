"""MLP channels removed: a row of ``up`` (and ``gate``) and the column of ``down`` that reads it, least important first.

By activations, as Wanda scores weights (Sun et al. 2024, equation 1), summed over a column of ``down``:
Sⱼ = Σᵣ |W_down[r, j]| · RMS(xⱼ), xⱼ being what goes into that column. Layers are compared by what the MLP's output is
to the residual stream: Sⱼ is divided by the output's RMS and multiplied by the RMS of what is added to the stream over
that of the stream. By loss: the first-order change of the next-token loss when xⱼ becomes 0 (Molchanov et al. 2017,
equation 6), the mean over tokens of |∂L/∂xⱼ · xⱼ|.

The channels that stay are chosen over the whole model in groups of ``multiple``, each layer keeping at least one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.calibration import network
from edgepress.exporter.compress import Options, Pruning
from edgepress.exporter.decoder import Linear, layer_weights
from edgepress.exporter.pruning.config import described, refuse_different, with_widths
from edgepress.exporter.pruning.picks import Pick, picked_tensors, whole
from edgepress.exporter.pruning.streams import embedded, held, pass_layers
from edgepress.exporter.pruning.task import PruneTask

Indices = NDArray[np.int64]
Scores = NDArray[np.float64]

_WAYS = ("activations", "loss")


def remove_channels(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with narrower MLPs."""
    if options["by"] not in _WAYS:
        raise InputError(f"[options.mlp_width] by must be one of {', '.join(_WAYS)}, not {options['by']!r}")
    widths = [layer.mlp.up.weight.shape[0] for layer in task.decoder.layers]
    multiple = _multiple(widths, options, task.block)
    share, uniform = float(options["share"]), bool(options["uniform"])
    check_share(widths, share, multiple, uniform=uniform)
    if not uniform:
        refuse_different(
            task.targets,
            "mlp_width gives each layer its own width",
            "set uniform = true in [options.mlp_width]",
        )
    tokens = task.tokens(int(options["tokens"]))
    scores = activation_scores(task, tokens) if options["by"] == "activations" else loss_scores(task, tokens)
    kept = choose(scores, share, multiple, uniform=uniform)
    task.report["widths"] = [len(channels) for channels in kept]
    keep_channels(task, kept)


def _multiple(widths: Sequence[int], options: Options, block: int) -> int:
    multiple = int(options["multiple"]) or block
    if not 1 <= multiple <= min(widths):
        raise InputError(
            f"[options.mlp_width] multiple is {multiple}; it must be at least 1 and at most the narrowest MLP, "
            f"{min(widths)} channels wide"
        )
    return multiple


def check_share(widths: Sequence[int], share: float, multiple: int, *, uniform: bool) -> None:
    """Raise InputError when a share of the channels leaves none in a layer, or cannot be the same in all."""
    if not 0 < share < 1:
        raise InputError(
            f"[options.mlp_width] share is {share}; it is the share of channels that stay: above 0, below 1"
        )
    least = multiple / min(widths) if uniform else multiple * len(widths) / sum(widths)
    if share < least:
        raise InputError(
            f"[options.mlp_width] share = {share} of {sum(widths)} channels leaves a layer with none, in multiples of "
            f"{multiple}; give at least {least:.3g}, or a smaller multiple"
        )
    if uniform and len(set(widths)) > 1:
        raise InputError(
            f"[options.mlp_width] uniform = true, and the MLPs differ in width already ({min(widths)} to "
            f"{max(widths)}); set uniform = false"
        )


def activation_scores(task: PruneTask, tokens: NDArray[np.int64]) -> list[Scores]:
    """Importance of the channels of each layer, (channels,) each, on sequences of tokens (sequences, length)."""
    decoder = task.decoder
    squares = [torch.zeros(layer.mlp.down.weight.shape[1], dtype=torch.float64) for layer in decoder.layers]
    outputs, added, streams = ([0.0] * len(decoder.layers) for _ in range(3))  # Σ of squares
    read: dict[int, network.Values] = {}

    def tap(index: int, linears: tuple[Linear, ...], x: Tensor) -> None:
        layer = decoder.layers[index]
        if linears[0] is not layer.mlp.down:
            return
        if index not in read:
            read.clear()
            read[index] = held(task.read, layer_weights(layer))
        y = network.linear_forward(layer.mlp.down, read[index], x)
        squares[index] += x.double().square().sum((0, 1)).cpu()
        outputs[index] += float(y.double().square().sum())
        y = layer.residual_multiplier * network.norm_forward(layer.mlp_post_norm, read[index], y)
        added[index] += float(y.double().square().sum())

    def seen(index: int, _before: Tensor, after: Tensor) -> None:
        streams[index] += float(after.double().square().sum())

    with (
        embedded(task.checkpoint, decoder, tokens, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(decoder.layers), "importance of channels", " layers") as advance,
    ):
        pass_layers(task.checkpoint, decoder, [stream], seen=seen, tap=tap, advance=advance)
    found = []
    for index, layer in enumerate(decoder.layers):
        columns = task.read(layer.mlp.down.weight).abs().sum(0).double().cpu()  # (channels,)
        stream_square = streams[index] / (tokens.size * decoder.hidden_size)
        weight = (added[index] / max(outputs[index], 1e-300) / max(stream_square, 1e-300)) ** 0.5
        found.append((columns * (squares[index] / tokens.size).sqrt() * weight).numpy())
    return found


def loss_scores(task: PruneTask, tokens: NDArray[np.int64]) -> list[Scores]:
    """Importance of the channels of each layer by the first-order change of the next-token loss, (channels,) each."""
    decoder = task.decoder
    values = held(task.read, decoder.weights())
    rotaries = network.rotaries(decoder, tokens.shape[1], task.device)
    sums = [torch.zeros(layer.mlp.down.weight.shape[1], dtype=torch.float64) for layer in decoder.layers]
    with task.progress(len(tokens), "importance of channels", " sequences") as advance, torch.enable_grad():
        for sequence in tokens:
            ids = torch.from_numpy(sequence).to(task.device)[None]  # (1, length)
            inputs: list[Tensor] = []  # of each `down`, (1, length, channels)

            def tap(down: Linear, linears: tuple[Linear, ...], x: Tensor, inputs: list[Tensor]) -> Tensor:
                if linears[0] is down:
                    x = x if x.requires_grad else x.requires_grad_()
                    inputs.append(x)
                return x

            x = network.embed(decoder, values, ids)
            for layer in decoder.layers:
                rotary = None if layer.attention.rope is None else rotaries[layer.attention.rope]
                x = network.layer_forward(layer, values, x, rotary, partial(tap, layer.mlp.down, inputs=inputs))
            logits = network.head_forward(decoder, values, x)[0, :-1]  # (length − 1, vocabulary)
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            for index, (x, gradient) in enumerate(zip(inputs, torch.autograd.grad(loss, inputs), strict=True)):
                sums[index] += (gradient * x.detach())[0].double().abs().sum(0).cpu()
            advance(1)
    return [(total / tokens.size).numpy() for total in sums]


def choose(scores: Sequence[Scores], share: float, multiple: int, *, uniform: bool) -> list[Indices]:
    """The channels of each layer that stay, ascending: at most ``share`` of all, the most important ones.

    A layer's channels are taken in groups of ``multiple``, the best first; the first group of each layer stays. With
    ``uniform`` every layer keeps equally many. Where a width is no multiple, the last group is the smaller rest.
    """
    ranked = [np.argsort(-score, kind="stable") for score in scores]
    if uniform:
        count = int(share * len(ranked[0]) / multiple) * multiple
        return [np.sort(order[:count]) for order in ranked]
    counts = [multiple] * len(scores)
    groups = sorted(
        (-float(score[order[start : start + multiple]].mean()), layer, start)
        for layer, (score, order) in enumerate(zip(scores, ranked, strict=True))
        for start in range(multiple, len(order), multiple)
    )
    budget = share * sum(map(len, scores)) - sum(counts)
    for _, layer, start in groups:
        size = min(multiple, len(ranked[layer]) - start)
        if size > budget:
            break
        counts[layer] = start + size
        budget -= size
    return [np.sort(order[:count]) for order, count in zip(ranked, counts, strict=True)]


def keep_channels(task: PruneTask, kept: Sequence[Indices]) -> None:
    """Write the checkpoint whose layers have only the channels ``kept``, ascending."""
    old = task.decoder
    config = with_widths(task.checkpoint.config, [len(channels) for channels in kept])
    new = described(task.checkpoint, config)
    picks = whole(old, new)
    for layer, channels in zip(old.layers, kept, strict=True):
        for linear in (layer.mlp.gate, layer.mlp.up):
            if linear is not None:
                picks |= {w.name: Pick(w, rows=channels) for w in (linear.weight, linear.bias) if w is not None}
        down = layer.mlp.down.weight
        picks[down.name] = Pick(down, columns=channels)
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


METHOD = Pruning(
    name="mlp_width",
    run=remove_channels,
    options={"share": 0.75, "by": "activations", "uniform": False, "multiple": 0, "tokens": 4096},
)
