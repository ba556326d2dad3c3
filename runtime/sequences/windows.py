"""A window of speech in pieces, by the times that its target tells (Radford et al. 2022, section 3.8)."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgepress.tasks.sequences import Speech


@dataclass(frozen=True)
class Piece:
    """Tokens from ``start`` to ``stop`` of a window's; ``first`` and ``last`` number its times, None where not told."""

    start: int
    stop: int
    first: int = 0
    last: int | None = None


def cut_window(
    tokens: Sequence[int], speech: Speech, count: int, frames_a_second: float
) -> tuple[tuple[Piece, ...], int]:
    """Pieces of a window of ``count`` frames, and how many of these are done with.

    Two times side by side end one piece and begin the next. Where the last of them is followed by text, what it began
    is unfinished: it is left to the next window, which begins there.
    """
    if speech.no_timestamps is None:
        return (Piece(0, len(tokens)),), count
    zero = speech.no_timestamps + 1
    is_time = [token >= zero for token in tokens]
    borders = [index + 1 for index in range(len(tokens) - 1) if is_time[index] and is_time[index + 1]]
    alone = is_time[-2:] == [False, True]
    if not borders:
        told = [token - zero for token in tokens if token > zero]
        ends_in_time = [token for token, is_one in zip(tokens, is_time, strict=True) if is_one][-1:] != [zero]
        return (Piece(0, len(tokens), 0, told[-1] if told and ends_in_time else None),), count
    if alone:
        borders.append(len(tokens))
    else:
        borders[-1] += 1
    pieces, start = [], 0
    for number, border in enumerate(borders):
        last = border - 1 if number < len(borders) - 1 or alone else border - 2
        pieces.append(Piece(start, border, tokens[start] - zero, tokens[last] - zero))
        start = border
    frames = round((tokens[start - 2] - zero) * speech.seconds * frames_a_second)
    return tuple(pieces), count if alone or frames <= 0 else frames
