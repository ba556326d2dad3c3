"""What every open bundle of a task is, and the file that its task has: ``TASK`` in ``<task>.py``.

::

    model = load("bundle")               # an ImageClassifier where the task is image-classification
    model.classify("cat.jpg")            # what its task answers
    model.run({"pixel_values": array})   # arrays in, arrays out
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.processing.feeder import Feeder
from edgepress.runtime import tasks
from edgepress.runtime.sessions.session import ON_CPU
from edgepress.tasks.task import TENSORS, Axis, Edge, Task

Feed = Mapping[str, NDArray[np.generic]]
"""An array for each input, by name; or for each output."""
Run = Callable[[dict[str, NDArray[np.generic]]], Mapping[str, NDArray[np.generic]]]
"""What computes a graph: an array for each of its inputs in, one for each of its outputs out."""
Part = TypeVar("Part")


class TaskModel:
    """An open bundle of a task: :meth:`run` on arrays, and what its task adds."""

    takes: ClassVar[str] = "arrays by the names of the inputs (.npz)"
    """What :meth:`answer` takes, in words."""

    def __init__(self, task: Task, run: Run, folder: Path) -> None:
        self.task = task
        self.folder = folder
        self.feeder = Feeder(task, folder)
        self.ran_on = ON_CPU
        """What computes."""
        self._run = run

    def run(self, inputs: Feed) -> dict[str, NDArray[np.generic]]:
        """Compute the graph on arrays.

        Raises:
            InputError: an input is missing, unknown, or of another type or shape than the graph's.

        """
        return dict(self._run(check_feed(inputs, self.task)))

    def run_rows(self, inputs: Feed) -> dict[str, NDArray[np.generic]]:
        """Compute the graph on a batch of any size: where its graph takes one size alone, in pieces of that size.

        The first axis of every input and output is the batch's; the last piece is filled up with its own last row.
        """
        size = self.task.inputs[0].shape[0]
        rows = len(next(iter(inputs.values())))
        if not isinstance(size, int) or rows == size:
            return self.run(inputs)
        pieces = []
        for start in range(0, rows, size):
            piece = {name: array[start : start + size] for name, array in inputs.items()}
            missing = size - min(size, rows - start)
            filled = {name: np.concatenate([part, *[part[-1:]] * missing]) for name, part in piece.items()}
            outputs = self.run(filled)
            pieces.append({name: array[: size - missing] for name, array in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def part(self, kind: type[Part]) -> Part:
        """What the task says of its outputs: the part of its answers of that class.

        Raises:
            InputError: it says nothing of the kind.

        """
        answers = self.task.answers
        parts = [] if answers is None else [getattr(answers, field.name) for field in fields(answers)]
        found = next((part for part in parts if isinstance(part, kind)), None)
        return required(found, self, f"answers.{kind.__name__.lower()}")

    def feed(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The graph's inputs for one sample of what :attr:`takes` says, as a batch of one."""
        return self.feeder.feed([sample])

    def answer(self, sample: object) -> object:
        """What the bundle says of one sample, as a frozen dataclass or a tuple of them."""
        raise NotImplementedError(sample)


@dataclass(frozen=True)
class TaskKind:
    """A task: its name, and the class of an open bundle of it."""

    name: str
    opens: type[TaskModel]


def task_names() -> list[str]:
    """Every task that there is a file for."""
    own = {__name__.rpartition(".")[2]}
    found = (module.name for module in modules_in(tasks.__path__) if not module.ispkg)
    return sorted(name.replace("_", "-") for name in found if name not in own)


def find_task(name: str) -> TaskKind:
    """The task of that name.

    Raises:
        InputError: there is none.

    """
    if name not in task_names():
        raise InputError(f"there is no task {name!r}; there are {', '.join(task_names())}")
    kind: TaskKind = import_module(f"{tasks.__name__}.{name.replace('-', '_')}").TASK
    return kind


def open_task(task: Task, run: Run, folder: Path) -> TaskModel:
    """An open bundle of ``task``, whose graph ``run`` computes and whose files lie in ``folder``.

    A task that there is no file for, which a user may name as they like, takes and gives arrays.

    Raises:
        InputError: the bundle lacks what its task needs.

    """
    return find_task(task.name if task.name in task_names() else TENSORS).opens(task, run, folder)


def check_feed(inputs: Feed, task: Task) -> dict[str, NDArray[np.generic]]:
    """The inputs as the graph takes them: integers and floats are made its type where no value changes much.

    Raises:
        InputError: one is missing or unknown, has values of another kind (floats for integers, larger integers than its
            type has), or another shape; an axis that has a name has one size in all inputs, and one of those that the
            graph was found right with.

    """
    wanted = {edge.name: edge for edge in task.inputs}
    missing, unknown = sorted(wanted.keys() - inputs.keys()), sorted(inputs.keys() - wanted.keys())
    if missing or unknown:
        what = [f"{name} is missing" for name in missing] + [f"{name} is no input" for name in unknown]
        raise InputError(f"{' and '.join(what)}; the model takes {', '.join(map(describe, task.inputs))}")
    sizes: dict[str, tuple[int, str]] = {}
    bounds = {axis.name: axis for axis in task.axes or ()}
    return {name: _checked(np.asarray(inputs[name]), edge, sizes, bounds) for name, edge in wanted.items()}


def describe(edge: Edge) -> str:
    """An edge in a message: ``pixel_values float32 (batch, 3, 224, 224)``."""
    return f"{edge.name} {edge.type} ({', '.join(map(str, edge.shape))})"


def _checked(
    array: NDArray[np.generic], edge: Edge, sizes: dict[str, tuple[int, str]], bounds: Mapping[str, Axis]
) -> NDArray[np.generic]:
    if array.ndim != len(edge.shape):
        raise InputError(f"{edge.name} has the shape {array.shape}; the model takes {describe(edge)}")
    for number, (axis, size) in enumerate(zip(edge.shape, array.shape, strict=True)):
        given = f"{edge.name} has the shape {array.shape}; the model takes {describe(edge)}"
        if isinstance(axis, int):
            if size != axis:
                raise InputError(f"{given}: axis {number} has to be {axis} and is {size}")
            continue
        expected, whose = sizes.setdefault(axis, (size, edge.name))
        if size != expected:
            raise InputError(f"{given}, and {axis} is {expected} in {whose}")
        if axis in bounds and not bounds[axis].allows(size):
            raise InputError(f"{given}, and {axis} has to be {bounds[axis].words()} and is {size}")
    kind = np.dtype(edge.type)
    if not _is_cast(array, kind):
        raise InputError(
            f"{edge.name} has {array.dtype} values, which are no {edge.type}; the model takes {describe(edge)}"
        )
    return np.asarray(array, dtype=kind, order="C")  # ascontiguousarray would give a scalar an axis


def _is_cast(array: NDArray[np.generic], kind: np.dtype[np.generic]) -> bool:
    """Whether values may become ``kind``: floats of any width, integers that are in its range."""
    if array.dtype == kind or np.can_cast(array.dtype, kind, "safe"):
        return True
    if array.dtype.kind == "f" and kind.kind == "f":
        return True
    if array.dtype.kind in "iu" and kind.kind in "iu":
        range_ = np.iinfo(kind.name)
        return array.size == 0 or (int(array.min()) >= range_.min and int(array.max()) <= range_.max)
    return False


def required(part: Part | None, model: TaskModel, entry: str) -> Part:
    """``part``, which the model's task has.

    Raises:
        InputError: it has none: :meth:`TaskModel.run` on arrays is all that the bundle can do.

    """
    if part is None:
        raise InputError(
            f"{model.folder} ({model.task.name}) says nothing of {entry}, which this needs; give arrays to run(), or "
            "export it again with --task FILE.json that says it (docs/tasks.md), or from a checkpoint with its "
            "processor's files"
        )
    return part
