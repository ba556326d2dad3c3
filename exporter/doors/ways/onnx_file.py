"""An ONNX file, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgepress.errors import InputError
from edgepress.examples import find_size, make_feeds
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.graph.foreign.normal import refuse_unusable
from edgepress.exporter.graph.foreign.unsaid import find_batch, numbers_looked_for
from edgepress.exporter.source.onnx_file import hash_files
from edgepress.onnx_graph.files import read_model
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import LONGEST_NAME, Edge, EdgeType

if TYPE_CHECKING:
    from onnxruntime import NodeArg

_TYPES: dict[str, EdgeType] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in get_args(EdgeType) if kind not in ("float32", "float64")},
}


def recognizes(reference: str) -> bool:
    """Whether a file is named that ends in .onnx."""
    return Path(reference).suffix.lower() == ".onnx" and Path(reference).is_file()


def open_file(reference: str, options: Options, _folder: Path) -> Traced:
    """Read the edges of a file's graph; it is its own original.

    Raises:
        InputError: it is no model that onnxruntime opens, or an input or output is no tensor of numbers.

    """
    path = Path(reference)
    if options.revision is not None:
        raise InputError(f"--revision is of a model on the hub, and {path} is a file; leave it out")
    model = read_model(path)
    refuse_unusable(path, model)
    try:
        session = open_on_cpu(path)
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise InputError(f"{path} cannot be opened: {error}") from error
    for value in model.graph.input:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            raise InputError(
                f"{path}: how many axes {value.name} has is not known; export it with the shapes of its inputs"
            )
    renamed: dict[str, str] = {}
    inputs = tuple(_edge(path, value, renamed) for value in session.get_inputs())
    outputs = tuple(_edge(path, value, renamed) for value in session.get_outputs())
    if not inputs:
        raise InputError(f"{path} has no inputs, so what it gives is a constant; there is nothing to run")
    said = task_of(options.task, inputs, outputs, path.parent)
    task = replace(said.task, choices=numbers_looked_for(model) or None)
    size = find_size(lambda feed: session.run(None, feed), task)
    if size is None:
        unnamed = frozenset(f"{edge.name}_{axis}" for edge in inputs for axis in range(len(edge.shape)))
        task = find_batch(task, unnamed, lambda feed: session.run(None, feed)) or task
        size = find_size(lambda feed: session.run(None, feed), task) or 1
    return Traced(
        file=path,
        model_type="onnx",
        task=task,
        texts=said.texts,
        notes=said.notes,
        examples=lambda seed: make_feeds(task, size, seed),
        source=hash_files(path, model),
    )


def _edge(path: Path, value: NodeArg, renamed: dict[str, str]) -> Edge:
    """An input or output. An axis whose name is a long formula of others is called by its place: see ``renamed``."""
    kind = _TYPES.get(value.type)
    if kind is None:
        raise InputError(f"{path}: {value.name} is a {value.type}; inputs and outputs must be tensors of numbers")
    if 0 in value.shape:
        raise InputError(f"{path}: {value.name} has an axis of size 0, so there is nothing to compute")
    shape = list[int | str]()
    for axis, size in enumerate(value.shape):
        place = f"{value.name}_{axis}"
        if isinstance(size, str) and len(size) > LONGEST_NAME:
            shape.append(renamed.setdefault(size, place))
        else:
            shape.append(size if isinstance(size, int) else size or place)
    return Edge(value.name, kind, tuple(shape))


DOOR = Door("onnx-file", "a file of ONNX", recognizes, open_file)
