"""When each word is said: where the heads look that follow the sound, and the cheapest way through that.

As transformers' ``generate(return_token_timestamps=True)`` has it (openai/whisper's ``timing.py`` before it): the
attention of these heads is normalized over tokens, smoothed by a median over the source, and averaged; dynamic time
warping (Sakoe and Chiba 1978) then finds the monotone path that meets most of it.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.sequences.targets import SequenceSession
from edgepress.tasks.sequences import Speech

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages that are written without spaces
_BEFORE = "\"'“¡¿([{-"  # punctuation that belongs to the next word
_AFTER = "\"'.\u3002,\uff0c!\uff01?\uff1f:\uff1a”)]}\u3001"  # to the last one, of Chinese and Japanese too
_BOTH, _DOWN, _RIGHT = 0, 1, 2  # steps of a path
_UNFINISHED = "\ufffd"  # what tokens that end within a character decode to


@dataclass(frozen=True)
class Word:
    """A word, and when it is said, in seconds from the start of the sound."""

    text: str
    start: float
    end: float


# ---- times of tokens -------------------------------------------------------------------------------------------------


def token_starts(
    session: SequenceSession, speech: Speech, begin: Sequence[int], tokens: Sequence[int], positions: int
) -> Doubles:
    """When each of ``tokens`` begins, and when the last one ends, (tokens + 1,) in seconds of the window.

    They are the target of what was encoded last, after ``begin``; ``positions`` of the source have sound. The token
    that ends a target has no time of its own.
    """
    if len(tokens) < 2:
        return np.zeros(len(tokens) + 1)
    weights = []
    for layer in speech.aligned_layers:
        queries, keys = session.asked(np.array([*begin, *tokens[:-1]], np.int64), layer)
        heads = [head for of, head in speech.alignment if of == layer]
        weights.append(attention_of(queries[:, len(begin) :], keys, heads)[..., : max(1, positions)])
    starts = places_of(np.concatenate(weights), speech.smoothing) * speech.seconds
    return np.concatenate([starts, [starts[-1]] * 2])


def attention_of(queries: Floats, keys: Floats, heads: Sequence[int]) -> Floats:
    """Softmax of the scores of some heads, (heads, tokens, source), of queries (all heads, tokens, head_dim)."""
    chosen = np.array(heads)
    scores = queries[chosen] @ keys[chosen].transpose(0, 2, 1) * np.float32(queries.shape[-1] ** -0.5)
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    found: Floats = shifted / shifted.sum(-1, keepdims=True)
    return found


def places_of(weights: Floats, smoothing: int) -> NDArray[np.int64]:
    """The position of the source at which each token begins, (tokens,), of attention (heads, tokens, source)."""
    deviation = weights.std(axis=1, keepdims=True)
    normal = (weights - weights.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    mean = _smoothed(normal, smoothing).mean(axis=0)
    rows, columns = warp(-mean.astype(np.float64))
    return columns[np.diff(rows, prepend=-1) > 0]


def _smoothed(values: Floats, width: int) -> Floats:
    """Each value as the median of so many around it, the last axis mirrored at its ends."""
    side = width // 2
    if side == 0 or values.shape[-1] <= side:
        return values
    padded = np.pad(values, ((0, 0), (0, 0), (side, side)), mode="reflect")
    found: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * side + 1, axis=-1), axis=-1)
    return found


def warp(costs: Doubles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest path from the first to the last entry of costs (tokens, source), as rows and columns.

    A step goes down, right, or both. Entries of one diagonal depend on the two before it alone, so that all of one are
    computed at once. Of equal ways a step to the right is taken first.
    """
    height, width = costs.shape
    total = np.full((height + 1, width + 1), np.inf, np.float32)
    total[0, 0] = 0
    steps = np.empty((height + 1, width + 1), np.int8)
    steps[:, 0], steps[0, :] = _DOWN, _RIGHT
    for diagonal in range(2, height + width + 1):
        rows = np.arange(max(1, diagonal - width), min(height, diagonal - 1) + 1)
        columns = diagonal - rows
        both, down, right = total[rows - 1, columns - 1], total[rows - 1, columns], total[rows, columns - 1]
        step = np.where((both < down) & (both < right), _BOTH, np.where((down < both) & (down < right), _DOWN, _RIGHT))
        steps[rows, columns] = step
        total[rows, columns] = costs[rows - 1, columns - 1] + np.choose(step, (both, down, right))
    path = [(height, width)]
    while path[-1] != (0, 0):
        row, column = path[-1]
        step_back = steps[row, column]
        path.append((row - int(step_back != _RIGHT), column - int(step_back != _DOWN)))
    places: NDArray[np.int64] = np.array(path[-2::-1], np.int64) - 1
    return places[:, 0], places[:, 1]


# ---- words of tokens -------------------------------------------------------------------------------------------------


def words_of(
    tokens: Sequence[int],
    starts: Sequence[float],
    ends: Sequence[float],
    decode: Callable[[list[int]], str],
    language: str | None,
) -> tuple[Word, ...]:
    """Tokens of text as words with their times; a language without spaces has a word for each of its characters."""
    groups: list[tuple[str, int, int]] = []  # text, and the numbers of its first and last token
    for text, first, last in _characters(tokens, decode):
        begins = text.startswith(" ") or text.strip() in string.punctuation or language in _UNSPACED
        if begins or not groups:
            groups.append((text, first, last))
        else:
            before, start, _ = groups[-1]
            groups[-1] = (before + text, start, last)
    return tuple(Word(text, starts[first], ends[last]) for text, first, last in _with_punctuation(groups))


def _characters(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[tuple[str, int, int]]:
    """As few tokens as end with a whole character, one after the other."""
    found, start = [], 0
    whole = decode(list(tokens))
    offset = 0
    for stop in range(1, len(tokens) + 1):
        text = decode(list(tokens[start:stop]))
        place = text.find(_UNFINISHED)
        is_own = place >= 0 and whole[offset + place : offset + place + 1] in ("", _UNFINISHED)
        if place < 0 or is_own:
            found.append((text, start, stop - 1))
            start, offset = stop, offset + len(text)
    return found


def _with_punctuation(groups: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Words with the punctuation that belongs to them."""
    found: list[tuple[str, int, int]] = []
    for text, first, last in reversed(groups):  # what stands before a word is joined to it
        if found and text.startswith(" ") and text.strip() in _BEFORE:
            after, _, end = found[-1]
            found[-1] = (text + after, first, end)
        else:
            found.append((text, first, last))
    found.reverse()
    joined: list[tuple[str, int, int]] = []
    for text, first, last in found:
        if joined and not joined[-1][0].endswith(" ") and text in _AFTER:
            before, start, _ = joined[-1]
            joined[-1] = (before + text, start, last)
        else:
            joined.append((text, first, last))
    return joined
