"""Real inputs of a model, as the user has them in files: what is calibrated and compared on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.doors.traced import Feed, Samples, Traced
from edgepress.processing.arrays import array_types, read_arrays
from edgepress.processing.feeder import Feeder, Takes, what_is_taken
from edgepress.samples import read as samples
from edgepress.samples.read import feeds_of, some_of
from edgepress.samples.sample import Sample
from edgepress.samples.sample import Samples as Numbered
from edgepress.tasks.task import Edge, Task

MOST = 512
"""Samples of one source that are used: ranges hardly change beyond, and each is computed in float32."""


@dataclass(frozen=True)
class GivenSamples:
    """Inputs from sources of the user's, from the first one on at each call, and what they are made of.

    ``parts`` gives the inputs of each source with its samples; None in their place where it has arrays of inputs.
    ``folder`` has the files that the task names.
    """

    parts: tuple[tuple[Samples, Numbered | None], ...]
    folder: Path

    def __call__(self) -> Iterator[Feed]:
        """The inputs."""
        return (feed for feeds, _ in self.parts for feed in feeds())

    def made_of(self) -> Iterator[Sample | None]:
        """The sample of each of the inputs, with its label; None for arrays, of which nothing more is known."""
        for feeds, numbered in self.parts:
            yield from numbered if numbered is not None else (None for _ in feeds())


def read_samples(sources: Sequence[str | Path], traced: Traced, most: int = MOST) -> GivenSamples:
    """Inputs from sources of the user's: images, sounds or texts as its task takes them, or arrays.

    Sources are those of :func:`edgepress.samples.read.read_samples`; of each, up to ``most`` samples are used, spread
    over it. Where the task is ``tensors``, and for arrays by the names of all inputs, they are ``.npz`` files and
    folders of them, looked at now and read when their turn comes: an array of the input's rank is one sample, with one
    axis more, whose size is the same for all, that axis numbers samples.

    Raises:
        InputError: a source cannot be read, or is not what the model takes.

    """
    folder = Path() if traced.task.text is None else traced.texts[traced.task.text.tokenizer].parent
    return GivenSamples(tuple(_part(Path(source), traced.task, folder, most) for source in sources), folder)


def _part(source: Path, task: Task, folder: Path, most: int) -> tuple[Samples, Numbered | None]:
    takes = what_is_taken(task)
    if takes == "arrays" or _has_inputs(source, task, takes):
        return _arrays(source, task), None
    some = some_of(samples.read_samples(source, takes), most)
    return feeds_of(some, Feeder(task, folder)), some


def _has_inputs(source: Path, task: Task, takes: Takes) -> bool:
    """Whether a file of arrays has those that the graph takes, and no others, such as labels.

    Bytes by the name of an input in floats are images as they were taken, not yet what the graph takes.
    """
    if source.suffix.lower() != ".npz" or not source.is_file():
        return False
    types = array_types(source)
    if types.keys() != {edge.name for edge in task.inputs}:
        return False
    return takes != "image" or all(types[edge.name] != "uint8" or edge.type == "uint8" for edge in task.inputs)


def _arrays(source: Path, task: Task) -> Samples:
    files = _files(source, task)
    for file in files:
        for _ in _read(file, task):
            pass
    return lambda: (feed for file in files for feed in _read(file, task))


def _files(path: Path, task: Task) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} is not there; name a .npz file of the model's inputs, or a folder of them")
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path] * (path.suffix == ".npz")
    if not files:
        what = f"there is no .npz file in {path}" if path.is_dir() else f"{path} is no .npz file"
        names = ", ".join(edge.name for edge in task.inputs)
        raise InputError(
            f"{what}, and nothing is known of how anything else becomes {names}; "
            "give --task FILE.json that says it (docs/tasks.md), or save the model's inputs with numpy.savez"
        )
    return files


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
        yield {name: array[index, ...] for name, array in arrays.items()}  # an array where that is one number, too


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
