"""Channels of the residual stream removed, the same ones everywhere: embedding, every projection, every norm and head.

The importance of channel j by activations: Σᵣ |W[r, j]| · RMS(xⱼ) over each input projection (Wanda's score of weights,
Sun et al. 2024, equation 1), as a share of that projection's sum, added up over all of them and the head. By loss: the
first-order change of the next-token loss when the channel is held at zero
(:mod:`edgepress.exporter.methods.smaller.importance`).

The pruned model computes what the original does with those channels held at zero: an RMS norm then divides by the root
of S / H, S being the sum of squares of what stays and H the old size; S / H' with gains of √(H / H') and ε · H / H' is
the same. The config has one ε, so that norms over heads get the larger one too. A layer norm also subtracts the mean
over all channels, which has no such form: models with layer norms (GPT-2) are refused.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Pruning
from edgepress.exporter.methods.options import Option, Options, unset, unset_share, whole_number
from edgepress.exporter.methods.removing import removing
from edgepress.exporter.methods.smaller.config import check_described, described, with_hidden
from edgepress.exporter.methods.smaller.importance import WAYS, Scores, stream_loss_scores
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import operations
from edgepress.exporter.model.description import Block, Decoder
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.streams.streams import embedded, pass_layers

Indices = NDArray[np.int64]

_SHARE = 0.75  # of the channels that stay when a recipe says nothing


def remove_channels(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with a narrower residual stream."""
    check(task, options)
    size = size_left(task.decoder.hidden_size, options, task.block)
    score = channel_scores if options["by"] == "activations" else stream_loss_scores
    scores = score(task, task.tokens(int(options["tokens"])))
    kept = np.sort(np.argsort(-scores, kind="stable")[:size])
    task.report["hidden_size"] = size
    task.report["importance_kept"] = float(f"{scores[kept].sum() / scores.sum():.4g}")
    keep_channels(task, kept)


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    if (norm := task.decoder.final_norm) is None or norm.kind != "rms":
        raise InputError(
            f"hidden cannot prune {task.decoder.model_type}: its layer norms subtract the mean over all channels; take "
            "depth, heads or mlp_width"
        )
    if any(not norm.weight.parts for norm in every(Norm, task.decoder)):
        raise InputError(
            f"hidden cannot prune {task.decoder.model_type}: its norms have no gains, which would take up that "
            "fewer channels have another mean square; take depth, heads or mlp_width"
        )
    for block in every(Block, task.decoder.layers):
        if block.mixer.keeps_hidden:
            raise InputError(
                f"hidden cannot prune {task.decoder.model_type}: channels of the stream cannot be taken out of its "
                f"{block.name} ({block.mixer.keeps_hidden}); take depth or vocabulary"
            )
        if block.mixer.sizes() is None:
            raise InputError(
                f"hidden cannot prune {task.decoder.model_type}: the width of its {block.name} is the hidden size, "
                "inside too; take depth or vocabulary"
            )
    size = size_left(task.decoder.hidden_size, options, task.block)
    check_described(task.checkpoint, with_hidden(task.checkpoint.config, task.decoder, size), METHOD.name)


def size_left(hidden: int, options: Options, block: int) -> int:
    """How many of ``hidden`` channels the options leave: as asked, or a share of them, rounded down to a multiple.

    Raises:
        InputError: they contradict each other, leave nothing, or remove nothing.

    """
    size, share, multiple = int(options["size"]), float(options["share"]), int(options["multiple"]) or block
    if size and share:
        raise InputError(f"[options.hidden] has size = {size} and share = {share}; keep one of them")
    left = size or int((share or _SHARE) * hidden / multiple) * multiple
    if left < 1:
        raise InputError(
            f"[options.hidden] share = {share or _SHARE} of {hidden} channels leaves none, in multiples of {multiple}; "
            "give a larger share, or a smaller multiple"
        )
    if left >= hidden:
        raise InputError(
            f"[options.hidden] size = {left} keeps all {hidden} channels; give less, or leave hidden out of `prune`"
        )
    return left


def channel_scores(task: PruneTask, tokens: NDArray[np.int64]) -> Scores:
    """Importance of each channel of the residual stream by activations, (hidden,), on tokens (sequences, length)."""
    decoder = task.decoder
    scores = np.zeros(decoder.hidden_size)
    squares: dict[tuple[Linear, ...], Tensor] = {}  # Σ of squares of each input, by the projections that share it

    def add(linears: tuple[Linear, ...], x: Tensor) -> None:
        found = x.double().square().sum((0, 1)).cpu()
        squares[linears] = squares[linears] + found if linears in squares else found

    def tap(index: int, linears: tuple[Linear, ...], x: Tensor) -> None:
        if any(linears == block.mixer.input_projections for block in decoder.layers[index].blocks):
            add(linears, x)

    with (
        embedded(task.checkpoint, decoder, tokens, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(decoder.layers), "importance of channels", " layers") as advance,
        torch.no_grad(),
    ):
        pass_layers(task.checkpoint, decoder, [stream], tap=tap, advance=advance)
        for x in stream:
            add((decoder.head,), operations.norm_forward(decoder.final_norm, task.read, x))
    for linears, total in squares.items():
        sizes = (total / tokens.size).sqrt()
        for linear in linears:
            found = (task.read(linear.weight).abs().sum(0).double().cpu() * sizes).numpy()
            scores += found / max(found.sum(), 1e-300)
    return scores


def keep_channels(task: PruneTask, kept: Indices) -> None:
    """Write the checkpoint whose residual stream has only the channels ``kept``, ascending."""
    old = task.decoder
    config = with_hidden(task.checkpoint.config, old, len(kept))
    new = described(task.checkpoint, config)
    picks = whole(old, new)
    gain = (old.hidden_size / len(kept)) ** 0.5
    for block in every(Block, old.layers):
        picks |= _block_picks(block, kept, gain)
    picks |= _end_picks(old, new, kept, gain)
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


def _block_picks(block: Block, kept: Indices, gain: float) -> dict[str, Pick]:
    picks = {}
    for linear in block.mixer.input_projections:  # their columns are channels of the stream
        picks[linear.weight.name] = Pick(linear.weight, columns=kept)
    for weight in every(Weight, block.mixer.output_projection):  # it is added to the stream
        picks[weight.name] = Pick(weight, rows=kept)
    for norm in (block.norm, block.post_norm):
        if norm is not None:
            picks |= _norm_pick(norm, kept, gain)
    return picks


def _norm_pick(norm: Norm, kept: Indices, gain: float) -> dict[str, Pick]:
    return {norm.weight.name: Pick(norm.weight, rows=kept, scale=np.full(len(kept), gain, np.float32))}


def _end_picks(old: Decoder, new: Decoder, kept: Indices, gain: float) -> dict[str, Pick]:
    """Embedding, final norm and head.

    Where the embedding's multiplier follows from the hidden size (Gemma), the embedding is scaled to undo its change,
    and where the head is tied to the embedding the final norm is scaled back. A multiplier of the logits that follows
    from it (MiniCPM3) is undone by the final norm.
    """
    logits = old.logits_multiplier / new.logits_multiplier
    ratio = old.embedding_multiplier / new.embedding_multiplier
    scale = None if ratio == 1 else np.full(old.vocab_size, ratio, np.float32)
    picks = {old.embedding.name: Pick(old.embedding, columns=kept, scale=scale)}
    if not old.tied:
        picks[old.head.weight.name] = Pick(old.head.weight, columns=kept)
    norm, factor = old.final_norm, logits * (gain / ratio if old.tied else gain)
    return picks if norm is None else picks | _norm_pick(norm, kept, factor)


METHOD = Pruning(
    name="hidden",
    run=remove_channels,
    declared={
        "size": unset(0),
        "share": unset_share(),
        "by": Option("activations", choices=WAYS),
        "multiple": unset(0),
        "tokens": whole_number(4096, 2),
    },
    check=check,
    looks_at=frozenset({"hidden"}),
    changes=frozenset({"hidden"}),
    on_graphs=removing("hidden", "hidden"),
)
