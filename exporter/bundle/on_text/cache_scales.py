"""The scales of keys and values that are kept as integers: of each channel what fits it best, on some text.

Keys have channels that are many times larger than others in every token, so a scale for all would leave most channels
a few steps (Hooper et al. 2024, KVQuant, section 3.1; Liu et al. 2024, KIVI): scales are by channel. The bundle's own
weights are run, with floats for a cache, a few nodes at a time. Values that unseen text makes larger are cut off, so
there is a margin.

The text is shorter than what a bundle is used for, and rotary embedding turns the two channels of a pair, (a, b), into
each other: what was seen at position p has turned by (n − p) θ more at position n. So both channels get scales for what
they become at any n of the context (:func:`_reached`). In pairs that turn fast that is √(a² + b²) for both. The slowest
ones of most models turn less than once in the context, and there the smaller channel of an uneven pair keeps finer
steps. Where an RMS norm follows the rotation its gain (g, h) comes on top: what turns is (a / g, b / h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.bundle.rotations import pair_channels
from edgepress.bundle.states import State
from edgepress.exporter.graph.piecewise import Piecewise
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import rotated_keys
from edgepress.exporter.plan.plan import Plan
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.terminal.progress import Progress, silent

Floats = NDArray[np.float32]

_LARGEST = 127
_MARGIN = 1.1
_SMALLEST = 1e-6  # a scale, of a channel that is 0 on all text


@dataclass(frozen=True)
class Turning:
    """How the first channels of a head turn into each other with a token's position.

    Args:
        angles: radians by which each pair of channels turns from one position to the next, in the text that was seen.
        whole: radians by which it turns from the first position of the context to the last.
        interleaved: whether pairs are neighbours, else they are of two halves (:func:`pair_channels`).
        gains: (heads or 1, channels) that multiply the channels after that, none of them 0; None for 1.

    """

    angles: Sequence[float]
    whole: Sequence[float]
    interleaved: bool = False
    gains: Floats | None = None


def find_cache_scales(
    bundle: Path,
    graph: onnx.ModelProto,
    decoder: Decoder,
    plan: Plan,
    tokens: NDArray[np.int64],
    *,
    threads: int,
    progress: Progress = silent,
) -> dict[str, Floats]:
    """Scales (1, heads, 1, channels) of each state that is integers, by its name.

    Args:
        bundle: the folder of the data file.
        graph: the graph with a cache of float32, which keeps all tokens.
        decoder: what the graph computes.
        plan: of the bundle, of whose states some are integers, and whose context has the positions that there are.
        tokens: (sequences, length) of text to look at.
        threads: to compute on.
        progress: makes the bar.

    """
    integers = {state.output: state.name for state in plan.integer_states}
    turnings = _turnings(bundle, graph, decoder, plan.context_length, tokens.shape[1])
    found: dict[str, Floats] = {}
    pieces = Piecewise(bundle, graph, integers, threads=threads)
    with progress(len(pieces), "looking at keys and values", " steps") as advance:
        for values in pieces.run(before_text(decoder.states(), tokens)):
            found |= {integers[name]: scales_of(value, turnings.get(integers[name])) for name, value in values.items()}
            advance(1)
    return found


def scales_of(values: Floats, turning: Turning | None = None) -> Floats:
    """The scales (1, heads, 1, channels) with which ``values`` (sequences, heads, length, channels) fit in a byte.

    With ``turning`` they fit at any other position of the context as well; positions of ``values`` begin at 0.
    """
    peak = np.abs(values).max(axis=(0, 2))  # (heads, channels)
    if turning is not None:
        first, second = pair_channels(len(turning.angles), turning.interleaved)
        gains = np.ones_like(peak) if turning.gains is None else np.broadcast_to(turning.gains, peak.shape)
        peak[:, first], peak[:, second] = 0, 0
        for sequence in values:  # (heads, length, channels)
            plain = sequence / gains[:, None]
            reached = _reached(plain[..., first], plain[..., second], turning)
            for half, largest in zip((first, second), reached, strict=True):
                peak[:, half] = np.maximum(peak[:, half], largest * np.abs(gains[:, half]))
    return np.asarray(np.maximum(peak * _MARGIN / _LARGEST, _SMALLEST), np.float32)[None, :, None]


def _reached(first: Floats, second: Floats, turning: Turning) -> tuple[Floats, Floats]:
    """The largest size (heads, pairs) of both channels of each pair at any position of the context.

    A pair (heads, length, pairs) is r (cos φ, sin φ). At position 0 it had the angle φ − p θ, at the last one ``whole``
    more. In between, the cosine comes to ± 1 if a multiple of π is passed, else it is largest at one of the ends.
    """
    size, angle = np.hypot(first, second), np.arctan2(second, first)
    start = angle - np.arange(first.shape[1])[:, None] * np.asarray(turning.angles)

    def largest_cosine(start: NDArray[np.float64]) -> Floats:
        stop = start + np.asarray(turning.whole)  # which is less where a model turns the other way (nanochat)
        passes = np.floor(np.maximum(start, stop) / np.pi) >= np.ceil(np.minimum(start, stop) / np.pi)
        found = np.where(passes, 1, np.maximum(np.abs(np.cos(start)), np.abs(np.cos(stop))))
        return np.asarray((size * found).max(axis=1), np.float32)

    return largest_cosine(start), largest_cosine(start - np.pi / 2)


def _turnings(bundle: Path, graph: onnx.ModelProto, decoder: Decoder, context: int, length: int) -> dict[str, Turning]:
    """How the channels of keys turn, by the name of their state; gains are read from where the graph has them.

    With longrope a text of ``length`` tokens is turned by one of two tables, and the ``context`` may be by the other.
    """
    reader, constants = TensorReader(bundle), {tensor.name: tensor for tensor in graph.graph.initializer}
    widths = {state.name: state.sizes(0)[-1] for state in decoder.states()}
    found = {}
    for keys, interleaved in rotated_keys(decoder):
        gains, rope = None, decoder.ropes[keys.rope]
        if keys.gain is not None:
            gains = np.asarray(reader.array(constants[keys.gain.name]), np.float32).reshape(-1, widths[keys.name])
        long = rope.long_inverse_frequencies or rope.inverse_frequencies
        angles = long if length > rope.long_from else rope.inverse_frequencies
        fastest = np.where(np.abs(long) > np.abs(rope.inverse_frequencies), long, rope.inverse_frequencies)
        whole = (context - 1) * fastest
        found[keys.name] = Turning(angles, whole.tolist(), interleaved, gains)
    return found


def before_text(states: Sequence[State], tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What a call with the whole of some texts reads, ``tokens`` (sequences, length): states as they are before it."""
    count = len(tokens)
    before = {state.input: np.zeros((count, *state.sizes(0)[1:]), np.dtype(state.type)) for state in states}
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **before}
