"""Tensors: arrays in, arrays out, of a model of which nothing else is known."""

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.tasks.kinds import TaskKind, TaskModel


class Tensors(TaskModel):
    """``run(inputs)`` is all there is."""

    def answer(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The outputs for the arrays of a file."""
        return self.run(self.feed(sample))


TASK = TaskKind("tensors", Tensors)
