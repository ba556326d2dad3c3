"""MLP channels removed: a row of ``up`` (and ``gate``) and its column of ``down``, least important first.

Importance is by activations and weights, or by the loss (:mod:`edgepress.exporter.methods.smaller.importance`). The
channels that stay are chosen over the whole model in groups of ``multiple``; each layer keeps at least one group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Pruning
from edgepress.exporter.methods.options import Option, Options, unset, whole_number
from edgepress.exporter.methods.removing import removing
from edgepress.exporter.methods.smaller.config import (
    described,
    refuse_different,
    require,
    require_key,
    with_widths,
)
from edgepress.exporter.methods.smaller.importance import WAYS, Scores, input_scores
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.architectures import architecture
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.parts.tree import every

Indices = NDArray[np.int64]


def remove_channels(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with narrower MLPs."""
    check(task, options)
    multiple = _multiple(_widths(task.decoder), options, task.block)
    share, uniform = float(options["share"]), bool(options["uniform"])
    scores = input_scores(task, MLP, options)
    kept = choose(scores, share, multiple, uniform=uniform)
    task.report["widths"] = [len(channels) for channels in kept]
    keep_channels(task, kept)


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    require(task.decoder, MLP, METHOD.name)
    key = architecture(task.decoder.model_type).width_key
    require_key(task.decoder, key, METHOD.name, "the width of an MLP")
    if any(layer.mixer(MLP).inner_norm is not None for layer in task.decoder.layers):
        raise InputError(
            f"mlp_width cannot prune {task.decoder.model_type}: its channels are normalized together; take depth or "
            "hidden"
        )
    widths, uniform = _widths(task.decoder), bool(options["uniform"])
    check_share(widths, float(options["share"]), _multiple(widths, options, task.block), uniform=uniform)
    if not uniform:
        refuse_different(
            task.targets,
            "mlp_width gives each layer its own width",
            "set uniform = true in [options.mlp_width]",
        )


def _widths(decoder: Decoder) -> list[int]:
    return [layer.mixer(MLP).up.weight.shape[0] for layer in decoder.layers]


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
        mlp = layer.mixer(MLP)
        for weight in every(Weight, mlp.input_projections):
            picks[weight.name] = Pick(weight, rows=channels)
        down = mlp.down.weight
        picks[down.name] = Pick(down, columns=channels)
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


METHOD = Pruning(
    name="mlp_width",
    run=remove_channels,
    declared={
        "share": Option(0.75, above=0, below=1),
        "by": Option("activations", choices=WAYS),
        "uniform": Option(False),
        "multiple": unset(0),
        "tokens": whole_number(4096, 2),
    },
    check=check,
    looks_at=frozenset({"widths"}),
    changes=frozenset({"widths"}),
    on_graphs=removing("mlp_width", "widths"),
)
