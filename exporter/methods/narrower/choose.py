"""Which channels stay: the most important ones, as many as a budget of multiply-adds or of weights allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.methods.narrower.coupling import Coupling, Group, Kind
from edgepress.exporter.methods.narrower.importance import Scores

OF = ("multiply_adds", "parameters", "channels")
"""What a share may be of."""

Kept = NDArray[np.bool_]


def find_groups(coupling: Coupling, kinds: Sequence[Kind], only: str, skip: str, method: str) -> list[Group]:
    """The groups of these kinds whose names match.

    ``only`` and ``skip`` are as in :func:`matching`.

    Raises:
        InputError: there is none, or none is left; the message names what there is.

    """
    own = [group for group in coupling.groups if group.kind in kinds]
    if not own:
        others = sorted({group.kind for group in coupling.groups})
        there = f"there are {', '.join(others)}" if others else "no channel of it can be removed" + _reasons(coupling)
        raise InputError(f"{method} finds no {' or '.join(kinds)} in this graph that can go: {there}")
    wanted = matching([group.name for group in own], only, skip, method, "groups")
    return [group for group in own if group.name in wanted]


def matching(names: Sequence[str], only: str, skip: str, method: str, what: str) -> list[str]:
    """The ``names`` that match ``only`` and not ``skip``: patterns separated by commas, "" for all and for none.

    Raises:
        InputError: a pattern matches none, or none is left; the message names what there is.

    """
    for option, text in (("only", only), ("skip", skip)):
        for pattern in _patterns(text):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(
                    f"[options.{method}] {option}: {pattern!r} matches none of the {len(names)} {what}: {_some(names)}"
                )
    wanted = [name for name in names if not only or _matches(name, only)]
    left = [name for name in wanted if not _matches(name, skip)]
    if not left:
        raise InputError(f"[options.{method}] skip leaves none of {len(wanted)} {what}; leave some")
    return left


def _patterns(text: str) -> list[str]:
    return [pattern.strip() for pattern in text.split(",") if pattern.strip()]


def _matches(name: str, text: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _patterns(text))


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _reasons(coupling: Coupling) -> str:
    return "".join(f"; {name}: {reason}" for name, reason in list(coupling.kept_whole.items())[:3])


def measure(coupling: Coupling, groups: Sequence[Group], of: str) -> Callable[[Kept], int]:
    """What a share is of, counted of the channels that stay."""
    if of == "multiply_adds":
        return coupling.multiply_adds
    if of == "parameters":
        return coupling.parameters
    own = np.concatenate([group.channels for group in groups])
    return lambda kept: int(kept[own].sum())


def choose(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Sequence[Scores],
    *,
    share: float,
    of: str,
    uniform: bool,
    priced: bool,
    multiple: int,
    method: str,
) -> Kept:
    """The channels that stay, (count,): at most ``share`` of what the graph has, counted as ``of`` says.

    A group's channels go in blocks of ``multiple``, least important first; its best block always stays. With
    ``uniform`` each group loses the same share of its blocks, otherwise blocks go by their mean importance over all
    groups; ``priced``, which asks for scores of one unit, by that over what is saved without them.

    Raises:
        InputError: so little cannot be reached; the message says what can.

    """
    ranked = [group.channels[np.argsort(-score, kind="stable")] for group, score in zip(groups, scores, strict=True)]
    order = [-np.sort(-score, kind="stable") for score in scores]
    counted = measure(coupling, groups, of)
    whole = counted(coupling.all_kept())
    blocks = [[(start, min(start + multiple, len(own))) for start in range(0, len(own), multiple)] for own in ranked]
    if uniform:
        steps = [
            (1 - place / len(own), index, place)  # the share of blocks that is gone when this one goes
            for index, own in enumerate(blocks)
            for place in range(1, len(own))
        ]
    else:
        prices = [_price(coupling, counted, group) if priced else 1.0 for group in groups]
        steps = [
            (float(order[index][start:end].mean()) / prices[index], index, place)
            for index, own in enumerate(blocks)
            for place, (start, end) in enumerate(own)
            if place
        ]
    steps.sort(key=lambda step: (step[0], step[1], -step[2]))

    def kept_after(count: int) -> Kept:
        kept = coupling.all_kept()
        for _, index, place in steps[:count]:
            start, end = blocks[index][place]
            kept[ranked[index][start:end]] = False
        return _repaired(coupling, kept)

    low, high = 0, len(steps)
    if counted(kept_after(high)) > share * whole:
        least, what = counted(kept_after(high)) / max(whole, 1), of.replace("_", "-")
        raise InputError(
            f"[options.{method}] share = {share:g} of the {whole:,} {what} cannot be reached: with one block of "
            f"{multiple} left in each of {len(groups)} groups {least:.3f} remain; give more, or more groups"
        )
    while low < high:
        middle = (low + high) // 2
        if counted(kept_after(middle)) <= share * whole:
            high = middle
        else:
            low = middle + 1
    return kept_after(low)


def _price(coupling: Coupling, counted: Callable[[Kept], int], group: Group) -> float:
    """What a channel of the group takes, counted while all others are there."""
    kept = coupling.all_kept()
    kept[group.channels[1:]] = False
    return max(1.0, (counted(coupling.all_kept()) - counted(_repaired(coupling, kept))) / max(1, len(group) - 1))


def _repaired(coupling: Coupling, kept: Kept) -> Kept:
    """One channel is kept of each axis that would have none, as of the parts of a split."""
    for _, labels in coupling.whole:
        own = coupling.channel_of[labels]
        if not kept[own].any():
            kept[own[0]] = True
    return kept
