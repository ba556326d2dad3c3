"""Experts removed: in each layer those that the router makes least use of on the text, with their rows of the router.

Use is counted as in Muzio, Sun and He 2024 (SEER-MoE, arXiv:2404.05089, section 3.1): the sum of the weights with which
tokens go through an expert, or how many tokens do. A config has one number of experts, so that every layer keeps
equally many; where a router chooses groups first, each group does, too. The tokens of an expert that is gone go through
the next best ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Pruning
from edgepress.exporter.methods.options import Option, Options, unset, unset_share, whole_number
from edgepress.exporter.methods.smaller.config import described, with_experts
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.architectures import architecture
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing, route
from edgepress.exporter.model.operations import linear_forward
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.streams.streams import embedded, held, pass_layers

Indices = NDArray[np.int64]
Use = NDArray[np.float64]  # (experts,)

_SHARE = 0.75  # of the experts that stay when a recipe says nothing


def remove_experts(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with fewer experts."""
    check(task, options)
    left = experts_left(mixtures(task.decoder), options)
    used = expert_use(task, task.tokens(int(options["tokens"])), by_weight=options["by"] == "weights")
    groups = [moe.routing.groups for moe in mixtures(task.decoder)]
    kept = [choose(use, left, count) for use, count in zip(used, groups, strict=True)]
    task.report["experts"] = left
    task.report["kept_experts"] = [experts.tolist() for experts in kept]
    shares = [float(use[experts].sum() / use.sum()) for use, experts in zip(used, kept, strict=True)]
    task.report["share_of_use"] = [float(f"{share:.4g}") for share in shares]
    keep_experts(task, kept)


def check(task: PruneTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    found = mixtures(task.decoder)
    if not found:
        raise InputError(
            f"experts cannot prune {task.decoder.model_type}: it has no mixture of experts; leave experts out of "
            "`prune`"
        )
    if not architecture(task.decoder.model_type).experts_keys:
        raise InputError(
            f"experts cannot prune {task.decoder.model_type}: its config has no key for the number of experts; leave "
            "experts out of `prune`"
        )
    experts_left(found, options)


def mixtures(decoder: Decoder) -> list[MixtureOfExperts]:
    """The mixtures of experts of the layers that have one, in their order."""
    return list(every(MixtureOfExperts, decoder.layers))


def experts_left(found: Sequence[MixtureOfExperts], options: Options) -> int:
    """How many experts the options leave in each of the mixtures.

    Raises:
        InputError: they contradict each other, leave too few for a token or remove none; or the mixtures differ.

    """
    asked, share = int(options["experts"]), float(options["share"])
    if asked and share:
        raise InputError(f"[options.experts] has experts = {asked} and share = {share}; keep one of them")
    counts = {len(moe.experts) for moe in found}
    if len(counts) > 1:
        raise InputError(
            f"experts cannot prune layers with {min(counts)} to {max(counts)} experts, as the config of the smaller "
            "model has one number; leave experts out of `prune`"
        )
    (count,) = counts
    groups = max(moe.routing.groups for moe in found)
    left = asked or int((share or _SHARE) * count / groups) * groups
    said = f"[options.experts] experts = {asked}" if asked else f"[options.experts] share = {share or _SHARE}"
    routing = max((moe.routing for moe in found), key=_least)
    least = _least(routing)
    if left < least:
        why = f"a token goes through {routing.count}"
        if groups > 1:
            why += f" in {routing.chosen_groups} of {groups} groups, chosen by the best {routing.best_in_group} of each"
        remedy = f"give at least {least}" if least < count else "leave experts out of `prune`"
        raise InputError(f"{said} leaves {left} of {count} experts in a layer, and {why}; {remedy}")
    if left >= count:
        raise InputError(f"{said} keeps all {count} experts; give less, or leave experts out of `prune`")
    if left % groups:
        raise InputError(f"{said}: the router has {groups} groups of one size; give a multiple of {groups}")
    return left


def _least(routing: Routing) -> int:
    """The fewest experts with which a router can choose as it does."""
    if routing.groups == 1:
        return routing.count
    in_group = max(-(-routing.count // routing.chosen_groups), routing.best_in_group)
    return in_group * routing.groups


def expert_use(task: PruneTask, tokens: NDArray[np.int64], *, by_weight: bool) -> list[Use]:
    """The use of each expert of each mixture, (experts,), on tokens (sequences, length).

    The weights with which tokens go through it, added up; or how many do.
    """
    decoder = task.decoder
    found = {moe.router: moe for moe in mixtures(decoder)}
    sums = {router: torch.zeros(len(moe.experts), dtype=torch.float64) for router, moe in found.items()}
    read = {
        router: held(task.read, (router.weight, router.bias, moe.correction)) for router, moe in found.items()
    }  # small: a row for each expert

    def tap(_index: int, linears: tuple[Linear, ...], x: Tensor) -> None:
        moe, router = found.get(linears[0]), linears[0]
        if moe is None:
            return
        logits = linear_forward(router, read[router], x).reshape(-1, len(moe.experts))
        correction = None if moe.correction is None else read[router](moe.correction)
        weights, chosen = route(moe.routing, logits, correction)
        amounts = (weights if by_weight else torch.ones_like(weights)).double()
        sums[router].index_add_(0, chosen.reshape(-1).cpu(), amounts.reshape(-1).cpu())

    with (
        embedded(task.checkpoint, decoder, tokens, task.folder / "stream.f32", task.device) as stream,
        task.progress(len(decoder.layers), "use of experts", " layers") as advance,
    ):
        pass_layers(task.checkpoint, decoder, [stream], tap=tap, advance=advance)
    return [total.numpy() for total in sums.values()]


def choose(use: Use, count: int, groups: int) -> Indices:
    """The experts that stay, ascending: the most used ones, equally many of each group."""
    size = len(use) // groups
    by_group = use.reshape(groups, size)
    best = np.argsort(-by_group, axis=1, kind="stable")[:, : count // groups]  # (groups, kept of each)
    return np.sort((best + size * np.arange(groups)[:, None]).ravel())


def keep_experts(task: PruneTask, kept: Sequence[Indices]) -> None:
    """Write the checkpoint whose mixtures have only the experts ``kept``, ascending, equally many in each."""
    old = task.decoder
    new = described(task.checkpoint, config := with_experts(task.checkpoint.config, len(kept[0])))
    picks = whole(old, new)
    for before, after, experts in zip(mixtures(old), mixtures(new), kept, strict=True):
        for number, expert in zip(experts, after.experts, strict=True):
            weights = zip(every(Weight, before.experts[number]), every(Weight, expert), strict=True)
            picks |= {to.name: Pick(weight) for weight, to in weights}
        for weight in every(Weight, before.router):
            picks[weight.name] = Pick(weight, rows=experts)
        if before.correction is not None:
            along = len(before.correction.shape) == 1
            rows, columns = (experts, None) if along else (None, experts)
            picks[before.correction.name] = Pick(before.correction, rows=rows, columns=columns)
    task.write(config=config, tensors=picked_tensors(task.checkpoint, new, picks))


METHOD = Pruning(
    name="experts",
    run=remove_experts,
    declared={
        "experts": unset(0),
        "share": unset_share(),
        "by": Option("weights", choices=("weights", "tokens")),
        "tokens": whole_number(4096, 2),
    },
    check=check,
    looks_at=frozenset({"experts"}),
    changes=frozenset({"experts"}),
)
