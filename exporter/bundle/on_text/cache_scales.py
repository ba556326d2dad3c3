"""The scales of keys and values that are kept as integers: of each channel what fits it best, on some text.

Keys have channels that are many times larger than others in every token, so a scale for all would leave most channels
a few steps (Hooper et al. 2024, KVQuant, section 3.1; Liu et al. 2024, KIVI): scales are by channel. The bundle's own
weights are run, with floats for a cache, a few nodes at a time. Values that unseen text makes larger are cut off, so
there is a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.exporter.graph.piecewise import Piecewise
from edgepress.terminal.progress import Progress, silent

_LARGEST = 127
_MARGIN = 1.1
_SMALLEST = 1e-6  # a scale, of a channel that is 0 on all text


def find_cache_scales(
    bundle: Path,
    graph: onnx.ModelProto,
    states: tuple[Sequence[State], Sequence[State]],
    tokens: NDArray[np.int64],
    *,
    threads: int,
    progress: Progress = silent,
) -> dict[str, NDArray[np.float32]]:
    """Scales (1, heads, 1, channels) of each state that is integers, by its name.

    Args:
        bundle: the folder of the data file.
        graph: the graph with a cache of float32, which keeps all tokens.
        states: those of ``graph``, and those of the bundle, of which some are integers.
        tokens: (sequences, length) of text to look at.
        threads: to compute on.
        progress: makes the bar.

    """
    floats, planned = states
    integers = {state.output: state.name for state in planned if state.type == "int8"}
    found: dict[str, NDArray[np.float32]] = {}
    pieces = Piecewise(bundle, graph, integers, threads=threads)
    with progress(len(pieces), "looking at keys and values", " steps") as advance:
        for values in pieces.run(before_text(floats, tokens)):
            found |= {integers[name]: scales_of(value) for name, value in values.items()}
            advance(1)
    return found


def scales_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scales (1, heads, 1, channels) with which ``values`` (sequences, heads, length, channels) fit in a byte."""
    peak = np.abs(values).max(axis=(0, 2))  # (heads, channels)
    return np.asarray(np.maximum(peak * _MARGIN / _LARGEST, _SMALLEST), np.float32)[None, :, None]


def before_text(states: Sequence[State], tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What a call with the whole of some texts reads, ``tokens`` (sequences, length): states as they are before it."""
    count = len(tokens)
    before = {state.input: np.zeros((count, *state.sizes(0)[1:]), np.dtype(state.type)) for state in states}
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens), **before}
