"""Open bundles of tasks whose graph is a function of numpy, for tests of what stands before and behind it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.tasks.kinds import TaskModel, open_task
from edgepress.tasks.task import Edge, Task, check_task

Arrays = dict[str, NDArray[np.generic]]


def opened(
    name: str,
    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]],
    outputs: Mapping[str, tuple[int | str, ...]],
    compute: Callable[[Arrays], Arrays],
    folder: Path = Path("bundle"),
    **entries: Any,
) -> TaskModel:
    """An open bundle: inputs as name → type and shape, float32 outputs as name → shape."""
    task = Task(
        name,
        tuple(Edge(edge, kind, shape) for edge, (kind, shape) in inputs.items()),
        tuple(Edge(edge, "float32", shape) for edge, shape in outputs.items()),
        **entries,
    )
    check_task(task)
    return open_task(task, compute, folder)
