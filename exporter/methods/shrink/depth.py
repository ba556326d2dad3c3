"""Whole layers removed: those that change the residual stream least, or those without which the loss grows least.

By influence: Men et al. 2024, ShortGPT, equation 1: block influence of layer i is 1 − E[xᵢ · xᵢ₊₁ / (‖xᵢ‖ ‖xᵢ₊₁‖)] with
xᵢ the residual stream before it; the layers with the least are removed together. By loss: one layer at a time, each
time the one without which KL(whole model ‖ the other layers) on the text is least, every remaining layer being tried;
the whole model is the one that the step is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.methods.kinds import GraphPruning, Pruning
from edgepress.exporter.methods.narrower import blocks
from edgepress.exporter.methods.options import Option, Options, unset, unset_share, whole_number
from edgepress.exporter.methods.smaller.config import (
    check_same_layers,
    described,
    with_layers,
)
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.description import Decoder, Layer, layer_weights
from edgepress.exporter.streams.head import divergences
from edgepress.exporter.streams.streams import embedded, held, pass_layer, pass_layers, values_of

_SHARE = 0.75  # of the layers that stay when a recipe says nothing
_TOKENS = 512  # whose logits are made at once


def remove_layers(task: PruneTask, options: Options) -> None:
    """Write the checkpoint without the layers that matter least."""
    check(task, options)
    decoder, count = task.decoder, layers_left(len(task.decoder.layers), options)
    tokens = task.tokens(int(options["tokens"]))
    gone = len(decoder.layers) - count
    if options["by"] == "influence":
        prices = influences(task, tokens)
        removed = sorted(np.argsort(prices, kind="stable")[:gone].tolist())
        task.report["influence"] = [float(f"{price:.4g}") for price in prices]
    else:
        removed, kl = least_loss(task, tokens, gone)
        task.report["kl"] = float(f"{kl:.4g}")
        removed = sorted(removed)
    task.report["removed_layers"] = removed
    keep_layers(task, [index for index in range(len(decoder.layers)) if index not in removed])


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    count = len(task.decoder.layers)
    _cut(task, range(1, 1 + layers_left(count, options)))  # any layer may have to go: here the first one


def layers_left(count: int, options: Options) -> int:
    """How many of ``count`` layers the options leave.

    Raises:
        InputError: they contradict each other, leave nothing, or remove nothing.

    """
    layers, share = int(options["layers"]), float(options["share"])
    if layers and share:
        raise InputError(f"[options.depth] has layers = {layers} and share = {share}; keep one of them")
    left = layers or round((share or _SHARE) * count)
    if left < 1:
        raise InputError(
            f"[options.depth] share = {share} leaves none of {count} layers; give at least {1 / count:.2g}"
        )
    if left >= count:
        asked = f"layers = {layers}" if layers else f"share = {share or _SHARE}"
        raise InputError(f"[options.depth] {asked} keeps all {count} layers; give less, or leave depth out of `prune`")
    return left


def influences(task: PruneTask, tokens: NDArray[np.int64]) -> list[float]:
    """Block influence of each layer on sequences of tokens (sequences, length)."""
    decoder = task.decoder
    sums = [0.0] * len(decoder.layers)

    def seen(index: int, before: Tensor, after: Tensor) -> None:
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)  # (sequences, length)
        sums[index] += float(cosine.double().sum())

    path = task.folder / "stream.f32"
    with (
        embedded(task.checkpoint, decoder, tokens, path, task.device) as stream,
        task.progress(len(decoder.layers), "influence of layers", " layers") as advance,
    ):
        pass_layers(task.checkpoint, decoder, [stream], seen=seen, advance=advance)
    return [1 - total / tokens.size for total in sums]


def least_loss(task: PruneTask, tokens: NDArray[np.int64], gone: int) -> tuple[list[int], float]:
    """Layers to remove, chosen one at a time, and KL(whole model ‖ pruned model), nats a token, at the end."""
    decoder = task.decoder
    left = list(range(len(decoder.layers)))
    removed: list[int] = []
    kl = 0.0
    with ExitStack() as stack:
        place = task.folder / "whole.f32"
        whole_stream = stack.enter_context(embedded(task.checkpoint, decoder, tokens, place, task.device))
        pass_layers(task.checkpoint, decoder, [whole_stream])
        steps = sum(len(left) - step for step in range(gone))
        with task.progress(steps, "trying without each layer", " layers") as advance:
            for _ in range(gone):
                prices = losses_without(task, tokens, left, whole_stream, advance)
                best = int(np.argmin(prices))
                kl = prices[best]
                removed.append(left.pop(best))
    return removed, kl


def losses_without(
    task: PruneTask,
    tokens: NDArray[np.int64],
    left: list[int],
    whole_stream: Activations,
    advance: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """KL(whole model ‖ the layers ``left`` without one of them), nats a token, for each of them.

    ``whole_stream`` is the whole model's residual stream before the head. All are run together, each layer read once: a
    stream that lacks layer i branches off before it.
    """
    decoder = task.decoder
    read = values_of(task.checkpoint, task.device)
    with ExitStack() as stack:
        base = stack.enter_context(embedded(task.checkpoint, decoder, tokens, task.folder / "base.f32", task.device))
        branches: list[Activations] = []
        for index in left:
            values = held(read, layer_weights(decoder.layers[index]))
            branch = Activations(task.folder / f"without-{index}.f32", base.shape, task.device)
            stack.callback(branch.path.unlink, missing_ok=True)
            for batch in base.batches():
                branch.write(batch, base.read(batch))
            for stream in (base, *branches):
                pass_layer(index, decoder, values, stream)
            del values  # before the next layer is read
            branches.append(branch)
            advance(1)
        return _divergences(task, whole_stream, branches)


def _divergences(task: PruneTask, expected: Activations, branches: list[Activations]) -> list[float]:
    """KL of the head's logits on each stream against those on ``expected``, nats a token."""
    sums = np.zeros(len(branches))
    for batch in expected.batches(_TOKENS):
        streams = [stream.read(batch).flatten(0, 1) for stream in (expected, *branches)]  # (tokens, hidden) each
        sums += divergences(task.checkpoint, task.decoder, streams[0], streams[1:])
    found: list[float] = (sums / (expected.shape[0] * expected.shape[1])).tolist()
    return found


def keep_layers(task: PruneTask, kept: list[int]) -> None:
    """Write the checkpoint that has only the layers ``kept``, in their order."""
    old, (config, new) = task.decoder, _cut(task, kept)
    picks = whole(old, new)
    for index, layer in zip(kept, new.layers, strict=True):
        picks |= _layer_picks(old.layers[index], layer)
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


def _cut(task: PruneTask, kept: Sequence[int]) -> tuple[dict[str, object], Decoder]:
    """The config that has only the layers ``kept``, and what it describes; InputError where it cannot be written."""
    config = with_layers(task.checkpoint.config, len(task.decoder.layers), kept)
    new = described(task.checkpoint, config)
    check_same_layers(task.decoder, new, kept, METHOD.name)
    return config, new


def _layer_picks(old: Layer, new: Layer) -> dict[str, Pick]:
    """A layer unchanged, but a scale that follows from its number (an option of GPT-2) goes into its weights."""
    picks = {to.name: Pick(weight) for to, weight in zip(layer_weights(new), layer_weights(old), strict=True)}
    for before, after in zip(old.blocks, new.blocks, strict=True):
        for name, factor in before.mixer.made_up_for(after.mixer).items():
            picks[name] = Pick(picks[name].weight, scale=factor)
    return picks


METHOD = Pruning(
    name="depth",
    run=remove_layers,
    declared={
        "layers": unset(0),
        "share": unset_share(),
        "by": Option("influence", choices=("influence", "loss")),
        "tokens": whole_number(4096, 2),
    },
    check=check,
    looks_at=frozenset({"layers"}),
    changes=frozenset({"layers"}),
    on_graphs=GraphPruning(
        "depth",
        blocks.remove_blocks,
        declared={"blocks": unset(0), "share": unset_share(), "samples": whole_number(8)},
        check=blocks.check,
    ),
)
