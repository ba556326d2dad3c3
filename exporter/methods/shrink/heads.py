"""Attention heads removed: whole groups of query heads with their key and value, or query heads evenly in each group.

All layers keep equally many, because the key-value cache has one shape; which ones is chosen in each layer. A head's
importance is the sum of the scores of its inputs to the output projection
(:mod:`edgepress.exporter.methods.smaller.importance`).

Where queries and keys are normalized over all heads together (OLMo 2), fewer heads have another mean square. The gains
that stay are scaled by RMS(heads that stay) / RMS(all), measured on the text, so that the norm's outputs keep their
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Pruning
from edgepress.exporter.methods.options import Option, Options, unset, unset_share, whole_number
from edgepress.exporter.methods.removing import removing
from edgepress.exporter.methods.smaller.config import check_described, described, require, with_heads
from edgepress.exporter.methods.smaller.importance import WAYS, Scores, input_scores
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import operations
from edgepress.exporter.model.architectures import architecture
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.streams.streams import embedded, held, pass_layers

Indices = NDArray[np.int64]

_SHARE = 0.5  # of the groups that stay when a recipe says nothing


@dataclass(frozen=True)
class Kept:
    """The heads of one layer that stay, ascending: query heads, as many in each group, and key-value heads."""

    heads: Indices
    kv_heads: Indices


def remove_heads(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with fewer heads."""
    check(task, options)
    attention = task.decoder.layers[0].mixer(Attention)
    heads, kv_heads = heads_left(attention.heads, attention.kv_heads, options)
    scores = input_scores(task, Attention, options)
    kept = [choose(score, attention, heads, kv_heads) for score in scores]
    task.report |= {"heads": heads, "kv_heads": kv_heads}
    task.report["kept_heads"] = [one.heads.tolist() for one in kept]
    keep_heads(task, kept, int(options["tokens"]))


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    require(task.decoder, Attention, METHOD.name)
    if why := architecture(task.decoder.model_type).keeps_heads:
        raise InputError(f"heads cannot prune {task.decoder.model_type}: {why}; take depth or vocabulary")
    attention = task.decoder.layers[0].mixer(Attention)
    if attention.alibi is not None:
        raise InputError(
            f"heads cannot prune {task.decoder.model_type}: the slopes of its heads follow from their numbers; leave "
            "heads out of `prune`"
        )
    if attention.inner_norm is not None:
        raise InputError(
            f"heads cannot prune {task.decoder.model_type}: what its heads give is normalized together; take depth or "
            "hidden"
        )
    heads, kv_heads = heads_left(attention.heads, attention.kv_heads, options)
    config = with_heads(task.checkpoint.config, task.decoder, heads, kv_heads)
    check_described(task.checkpoint, config, METHOD.name)


def heads_left(heads: int, kv_heads: int, options: Options) -> tuple[int, int]:
    """How many query and key-value heads the options leave.

    Raises:
        InputError: they contradict each other, leave nothing, remove nothing, or leave groups of different sizes.

    """
    asked, asked_kv, share = int(options["heads"]), int(options["kv_heads"]), float(options["share"])
    if share and (asked or asked_kv):
        raise InputError(f"[options.heads] has share = {share} and numbers of heads; keep one of them")
    group = heads // kv_heads
    if not asked and not asked_kv:
        asked_kv = round((share or _SHARE) * kv_heads)
        if not 1 <= asked_kv < kv_heads:
            what = "none" if asked_kv < 1 else "all"
            raise InputError(
                f"[options.heads] share = {share or _SHARE} of {kv_heads} key-value heads leaves {what}; give another "
                f"share, or how many of {heads} heads stay (heads = …)"
            )
    left_kv = asked_kv or kv_heads
    left = asked or left_kv * group
    if left_kv > kv_heads or left > heads or left % left_kv or left // left_kv > group:
        raise InputError(
            f"[options.heads] heads = {left}, kv_heads = {left_kv} of a model with {heads} and {kv_heads}: each "
            f"key-value head that stays must keep equally many query heads, 1 to {group}"
        )
    if (left, left_kv) == (heads, kv_heads):
        raise InputError(f"[options.heads] keeps all {heads} heads; give less, or leave heads out of `prune`")
    return left, left_kv


def choose(scores: Scores, attention: Attention, heads: int, kv_heads: int) -> Kept:
    """The heads of one layer that stay: the most important in each group, then the groups whose heads are.

    ``scores`` (heads · head_dim,) are of the inputs of the output projection.
    """
    by_head = scores.reshape(attention.kv_heads, -1, attention.head_dim).sum(2)  # (groups, heads of a group)
    size = heads // kv_heads
    best = np.sort(np.argsort(-by_head, axis=1, kind="stable")[:, :size], axis=1)  # (groups, size)
    totals = np.take_along_axis(by_head, best, 1).sum(1)
    groups = np.sort(np.argsort(-totals, kind="stable")[:kv_heads])
    return Kept((groups[:, None] * by_head.shape[1] + best[groups]).ravel(), groups)


def keep_heads(task: PruneTask, kept: Sequence[Kept], tokens: int) -> None:
    """Write the checkpoint whose layers have only the heads ``kept``, equally many in each."""
    old = task.decoder
    config = with_heads(task.checkpoint.config, old, len(kept[0].heads), len(kept[0].kv_heads))
    new = described(task.checkpoint, config)
    picks = whole(old, new)
    ratios = size_ratios(task, kept, tokens) if _is_normed_together(old.layers[0].mixer(Attention)) else None
    for index, (layer, one) in enumerate(zip(old.layers, kept, strict=True)):
        picks |= _attention_picks(layer.mixer(Attention), one, None if ratios is None else ratios[index])
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


def _is_normed_together(attention: Attention) -> bool:
    return attention.query_norm is not None and not attention.norm_per_head


def _attention_picks(attention: Attention, kept: Kept, ratios: tuple[float, float] | None) -> dict[str, Pick]:
    queries, keys = (_of_heads(numbers, attention.head_dim) for numbers in (kept.heads, kept.kv_heads))
    query_rows, key_rows, _ = attention.widths
    rows = np.concatenate([queries, query_rows + keys, query_rows + key_rows + keys])
    picks = {w.name: Pick(w, rows=rows) for w in (attention.qkv.weight, attention.qkv.bias) if w is not None}
    gates = kept.heads if attention.gate_by_head else queries
    picks |= {w.name: Pick(w, rows=gates) for w in every(Weight, attention.gate)}
    picks[attention.output.weight.name] = Pick(attention.output.weight, columns=queries)
    if attention.norm_per_head:
        for norm, numbers, columns in (
            (attention.query_norm, kept.heads, queries),
            (attention.key_norm, kept.kv_heads, keys),
        ):
            for weight in every(Weight, norm):
                if weight.shape != (attention.head_dim,):  # a gain of its own in each head
                    picks[weight.name] = Pick(weight, rows=numbers if len(weight.shape) == 2 else columns)
    if ratios is not None:
        for norm, indices, ratio in zip(
            (attention.query_norm, attention.key_norm), (queries, keys), ratios, strict=True
        ):
            if norm is not None:
                scale = np.full(len(indices), ratio, np.float32)
                picks[norm.weight.name] = Pick(norm.weight, rows=indices, scale=scale)
    return picks


def _of_heads(numbers: Indices, head_dim: int) -> Indices:
    """The columns of heads."""
    return (numbers[:, None] * head_dim + np.arange(head_dim)).ravel()


def size_ratios(task: PruneTask, kept: Sequence[Kept], tokens: int) -> list[tuple[float, float]]:
    """RMS of the heads that stay over that of all, before their norm, of queries and keys in each layer."""
    decoder, sequences = task.decoder, task.tokens(tokens)
    squares: list[tuple[Tensor, Tensor]] = []  # Σ of squares of each row of q and of k

    def tap(index: int, linears: tuple[Linear, ...], x: Tensor) -> None:
        attention = decoder.layers[index].mixer(Attention)
        if linears[0] is not attention.qkv:
            return
        values = held(task.read, (attention.qkv.weight, attention.qkv.bias))
        found = operations.linear_forward(attention.qkv, values, x).double().square().sum((0, 1)).cpu()
        q, k, _ = torch.split(found, attention.widths)
        if index == len(squares):
            squares.append((q, k))
        else:
            squares[index] = (squares[index][0] + q, squares[index][1] + k)

    with (
        embedded(task.checkpoint, decoder, sequences, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(decoder.layers), "sizes of heads", " layers") as advance,
    ):
        pass_layers(task.checkpoint, decoder, [stream], tap=tap, advance=advance)
    found = []
    for one, (q, k), layer in zip(kept, squares, decoder.layers, strict=True):
        columns = [_of_heads(numbers, layer.mixer(Attention).head_dim) for numbers in (one.heads, one.kv_heads)]
        queries, keys = (
            float((total[torch.from_numpy(rows)].mean() / total.mean()).sqrt())
            for total, rows in zip((q, k), columns, strict=True)
        )
        found.append((queries, keys))
    return found


METHOD = Pruning(
    name="heads",
    run=remove_heads,
    declared={
        "heads": unset(0),
        "kv_heads": unset(0),
        "share": unset_share(),
        "by": Option("activations", choices=WAYS),
        "tokens": whole_number(4096, 2),
    },
    check=check,
    looks_at=frozenset({"heads"}),
    changes=frozenset({"heads"}),
    on_graphs=removing("heads", "heads"),
)
