"""What every door gives: a model as float32 ONNX, its task, and the original to hold both against."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.tasks.task import Task

Feed = Mapping[str, NDArray[np.generic]]
"""An array for each input of a graph, by name; or for each output."""

TOLERANCE = 1e-4
"""Of the largest value of an output: graphs in float32 are within 1e-5, a wrong one is off by 1e-1."""

Samples = Callable[[], Iterator[Feed]]
"""Real inputs of a model, from the first one on at each call."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model as a file of plain ONNX operators in float32.

    ``file`` is the user's own file, or one in the workspace. ``examples(seed)`` yields feeds without end, of several
    sizes where axes are free. ``compute`` is the original model, from a feed to its outputs; None where the file is
    the original. ``exact`` is the same in float64, where it can be; ``tolerance`` is what outputs may differ by from
    the original's, as a share of the largest. ``texts`` are files that the bundle takes along, such as a tokenizer's,
    by their name there. ``source`` has the SHA-256 of each file that the model was made of, by name. ``notes`` say what
    was passed over or chosen, a sentence each.
    """

    file: Path
    model_type: str
    task: Task
    examples: Callable[[int], Iterator[Feed]]
    compute: Callable[[Feed], Feed] | None = None
    exact: Callable[[Feed], Feed] | None = None
    tolerance: float = TOLERANCE
    texts: Mapping[str, Path] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> "Traced":
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))
