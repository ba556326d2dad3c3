"""By what keys in a model's states are rotated, as data: what a runtime needs to move them to other positions.

Rotary embedding (Su et al. 2021, RoFormer, equation 15) turns each pair of a key's channels by an angle that is its
position times the pair's frequency, and the state holds what is turned. So a key moves by turning it further: of
rotations R(−n) R(p) = R(p − n). Values, and keys without rotary embedding, do not know where they stand.

Only the standard library and msgspec are used here: the exporter, the runtime and the manifest share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgepress.bundle.states import State

_MOST_PAIRS = 1 << 12  # of a head; the largest have 256
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


def pair_channels(pairs: int, interleaved: bool) -> tuple[slice, slice]:
    """The first channels of so many pairs of a head, and the second ones."""
    if interleaved:
        return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    return slice(0, pairs), slice(pairs, 2 * pairs)


@dataclass(frozen=True)
class KeyRotation:
    """How the keys in ``states``, named as :attr:`State.name`, are rotated.

    Pair d of a head's first channels turns by ``inverse_frequencies[d]`` radians a position. With n pairs it is the
    channels (d, d + n), or where they are ``interleaved`` (2 d, 2 d + 1); channels behind these are as they are.
    """

    states: tuple[_Name, ...]
    inverse_frequencies: tuple[float, ...]
    interleaved: bool = False


def check_rotations(rotations: Sequence[KeyRotation], states: Sequence[State]) -> None:
    """Raise a ValueError when a rotation is of no state with entries for tokens, of one twice, or of too many pairs."""
    known = {state.name: state for state in states if state.token_axis is not None}
    seen: set[str] = set()
    for rotation in rotations:
        pairs = len(rotation.inverse_frequencies)
        if not 0 < pairs <= _MOST_PAIRS:
            raise ValueError(f"keys are rotated in {pairs} pairs of channels; it must be 1 to {_MOST_PAIRS}")
        for name in rotation.states:
            if name not in known or name in seen:
                raise ValueError(f"{name} is no state with entries for tokens, or one that is rotated twice")
            seen.add(name)
            width = known[name].shape[-1]
            if not isinstance(width, int) or 2 * pairs > width:
                raise ValueError(f"{2 * pairs} channels of {name} are rotated, and its entries have {width}")
