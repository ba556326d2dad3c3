"""Real inputs of a model, as the user has them in files: what is calibrated and compared on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.doors.traced import Feed, Samples
from edgepress.processing.arrays import read_arrays
from edgepress.tasks.task import Edge, Task


def read_samples(paths: Sequence[str | Path], task: Task) -> Samples:
    """Samples in files or folders of files; each is looked at now, and read when its turn comes.

    An ``.npz`` file has an array for each input, by its name: of the input's rank it is one sample, with one axis
    more, whose size is the same for all, that axis numbers samples.

    Raises:
        InputError: a file cannot be read, or is not what the model takes.

    """
    files = [file for path in paths for file in _files(Path(path))]
    if not files:
        raise InputError(f"there is no .npz file in {', '.join(map(str, paths))}; name one, or a folder of them")
    for file in files:
        for _ in _read(file, task):
            pass
    return lambda: (feed for file in files for feed in _read(file, task))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.npz"))
    if not path.is_file() or path.suffix != ".npz":
        raise InputError(f"{path} is no .npz file and no folder of them; save the inputs of the model with numpy.savez")
    return [path]


def _read(path: Path, task: Task) -> Iterator[Feed]:
    arrays = read_arrays(path)
    names = [edge.name for edge in task.inputs]
    if set(arrays) != set(names):
        raise InputError(f"{path} has arrays {', '.join(sorted(arrays))}; the model's inputs are {', '.join(names)}")
    counts = {_count(path, edge, arrays[edge.name]) for edge in task.inputs}
    if len(counts) != 1:
        raise InputError(f"{path}: its arrays hold different numbers of samples; give each the same first axis")
    (count,) = counts
    if count is None:
        yield arrays
        return
    for index in range(count):
        yield {name: array[index] for name, array in arrays.items()}


def _count(path: Path, edge: Edge, array: NDArray[np.generic]) -> int | None:
    """How many samples an array holds; None where it is one."""
    rank = len(edge.shape)
    if array.dtype != edge.type or array.ndim not in (rank, rank + 1):
        raise InputError(
            f"{path}: {edge.name} is {array.dtype} of shape {array.shape}; the model takes {edge.type} of shape "
            f"({', '.join(map(str, edge.shape))}), with an axis before it for many samples"
        )
    shape = array.shape[array.ndim - rank :]
    if any(isinstance(size, int) and size != found for size, found in zip(edge.shape, shape, strict=True)):
        raise InputError(
            f"{path}: {edge.name} has the shape {shape}; the model takes ({', '.join(map(str, edge.shape))})"
        )
    return None if array.ndim == rank else len(array)
