"""What a pruning step of an ONNX graph is given: the graph so far, the original, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from edgepress.exporter.interpreter.network import Feed
from edgepress.exporter.methods.narrower.coupling import Coupling, find_coupling
from edgepress.terminal.progress import Progress, silent


@dataclass
class GraphTask:
    """One step: it reads ``model`` and sets ``made``.

    ``model`` has initializers as its only constants (:func:`.cut.plain`), ``original`` is the file before any step.
    ``samples()`` yields feeds anew each time, None where there are none. ``state_file`` is where a long step may keep
    what it has done so far. ``report`` is what the manifest records of the step; JSON values.
    """

    model: onnx.ModelProto
    original: Path
    samples: Callable[[], Iterator[Feed]] | None
    state_file: Path
    seed: int = 0
    progress: Progress = silent
    report: dict[str, object] = field(default_factory=dict)
    made: onnx.ModelProto | None = None

    @cached_property
    def coupling(self) -> Coupling:
        """Which channels of the graph must go together."""
        return find_coupling(self.model)


def rows_of(feed: Feed) -> int:
    """How many samples a feed holds: the size of the first axis of its inputs, one where none has any."""
    return next((len(array) for array in feed.values() if array.ndim), 1)
