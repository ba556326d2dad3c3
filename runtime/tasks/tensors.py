"""Tensors: arrays in, arrays out, of a model of which nothing else is known."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.arrays import read_arrays
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel


class Tensors(TaskModel):
    """``run(inputs)`` is all there is."""

    def feed(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The arrays of a file (.npz), or a mapping of them."""
        if isinstance(sample, str | Path):
            return read_arrays(Path(sample))
        if isinstance(sample, dict):
            return {str(name): np.asarray(array) for name, array in sample.items()}
        raise InputError(f"inputs are arrays by their names, or a file of them (.npz), not {type(sample).__name__}")

    def answer(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The outputs for the arrays of a file."""
        return self.run(self.feed(sample))


TASK = TaskKind("tensors", Tensors)
