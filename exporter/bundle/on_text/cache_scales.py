"""The scales of keys and values that are kept as integers: of each channel what fits it best, on some text.

Keys have channels that are many times larger than others in every token, so a scale for all would leave most channels
a few steps (Hooper et al. 2024, KVQuant, section 3.1; Liu et al. 2024, KIVI): scales are by channel. The bundle's own
weights are run, with floats for a cache, a few nodes at a time. Values that unseen text makes larger are cut off, so
there is a margin.

The text is shorter than what a bundle is used for, and rotary embedding turns the two channels of a pair, (a, b), into
each other: at some later position the key of a token that was seen has all of √(a² + b²) in one channel. So both
channels get a scale for the largest √(a² + b²), which no position changes. Where an RMS norm follows the rotation its
gain (g, h) comes on top: what turns is (a / g, b / h).
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
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.terminal.progress import Progress, silent

Floats = NDArray[np.float32]

_LARGEST = 127
_MARGIN = 1.1
_SMALLEST = 1e-6  # a scale, of a channel that is 0 on all text


@dataclass(frozen=True)
class Turning:
    """How the first channels of a head turn into each other with a token's position.

    ``pairs`` says of each pair of them whether it does; a frequency may be 0 (Gemma 4). They are neighbours where
    ``interleaved``, else of two halves (:func:`pair_channels`). ``gains`` (heads or 1, channels) multiply the channels
    after that, none of them by 0.
    """

    pairs: tuple[bool, ...]
    interleaved: bool = False
    gains: Floats | None = None


def find_cache_scales(
    bundle: Path,
    graph: onnx.ModelProto,
    decoder: Decoder,
    planned: Sequence[State],
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
        planned: the states of the bundle, of which some are integers.
        tokens: (sequences, length) of text to look at.
        threads: to compute on.
        progress: makes the bar.

    """
    integers = {state.output: state.name for state in planned if state.type == "int8"}
    turnings = _turnings(bundle, graph, decoder)
    found: dict[str, Floats] = {}
    pieces = Piecewise(bundle, graph, integers, threads=threads)
    with progress(len(pieces), "looking at keys and values", " steps") as advance:
        for values in pieces.run(before_text(decoder.states(), tokens)):
            found |= {integers[name]: scales_of(value, turnings.get(integers[name])) for name, value in values.items()}
            advance(1)
    return found


def scales_of(values: Floats, turning: Turning | None = None) -> Floats:
    """The scales (1, heads, 1, channels) with which ``values`` (sequences, heads, length, channels) fit in a byte.

    With ``turning`` they fit at any other position as well.
    """
    peak = np.abs(values).max(axis=(0, 2))  # (heads, channels)
    if turning is not None:
        first, second = pair_channels(len(turning.pairs), turning.interleaved)
        gains = np.ones_like(peak) if turning.gains is None else np.broadcast_to(np.abs(turning.gains), peak.shape)
        inverse = np.divide(1, gains, out=np.zeros_like(peak), where=gains > 0)[:, None]  # (heads, 1, channels)
        size = np.hypot(values[..., first] * inverse[..., first], values[..., second] * inverse[..., second])
        largest = size.max(axis=(0, 2))  # (heads, pairs)
        for half in (first, second):
            peak[:, half] = np.where(turning.pairs, largest * gains[:, half], peak[:, half])
    return np.asarray(np.maximum(peak * _MARGIN / _LARGEST, _SMALLEST), np.float32)[None, :, None]


def _turnings(bundle: Path, graph: onnx.ModelProto, decoder: Decoder) -> dict[str, Turning]:
    """How the channels of keys turn, by the name of their state; gains are read from where the graph has them."""
    reader, constants = TensorReader(bundle), {tensor.name: tensor for tensor in graph.graph.initializer}
    widths = {state.name: state.sizes(0)[-1] for state in decoder.states()}
    found = {}
    for keys, interleaved in rotated_keys(decoder):
        gains = None
        if keys.gain is not None:
            gains = np.asarray(reader.array(constants[keys.gain.name]), np.float32).reshape(-1, widths[keys.name])
        frequencies = decoder.ropes[keys.rope].inverse_frequencies
        found[keys.name] = Turning(tuple(frequency != 0 for frequency in frequencies), interleaved, gains)
    return found


def before_text(states: Sequence[State], tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What a call with the whole of some texts reads, ``tokens`` (sequences, length): states as they are before it."""
    count = len(tokens)
    before = {state.input: np.zeros((count, *state.sizes(0)[1:]), np.dtype(state.type)) for state in states}
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **before}
