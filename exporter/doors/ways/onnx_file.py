"""An ONNX file, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from onnx import TensorProto

from edgepress.errors import InputError
from edgepress.examples import find_size, make_feeds
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.graph.foreign.normal import refuse_unusable, write_normal
from edgepress.exporter.graph.foreign.unsaid import find_batch, numbers_looked_for
from edgepress.exporter.graph.passes import Context, find_pass
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.source.onnx_file import hash_files
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.walk import tensors
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import LONGEST_NAME, Edge, EdgeType

if TYPE_CHECKING:
    import onnx
    from onnxruntime import NodeArg

_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_TYPES: dict[str, EdgeType] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in get_args(EdgeType) if kind not in ("float32", "float64")},
}


def recognizes(reference: str) -> bool:
    """Whether a file is named that ends in .onnx."""
    return Path(reference).suffix.lower() == ".onnx" and Path(reference).is_file()


def open_file(reference: str, options: Options, folder: Path) -> Traced:
    """Read the edges of a file's graph; it is its own original, or, of a file in float16, the same in float32.

    Raises:
        InputError: it is no model that onnxruntime opens, or an input or output is no tensor of numbers.

    """
    path = Path(reference)
    if options.revision is not None:
        raise InputError(f"--revision is of a model on the hub, and {path} is a file; leave it out")
    model = read_model(path)
    refuse_unusable(path, model)
    source, notes = hash_files(path, model), tuple[str, ...]()
    original, model = _in_float32(path, model, folder)
    if original != path:
        notes = ("it is in float16: the bundle takes, gives and computes float32, with the same weights",)
    try:
        session = open_on_cpu(original)
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
    names = [edge.name for edge in outputs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path} gives {twice} {names.count(twice)} times; leave all but one of these outputs out")
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
        file=original,
        model_type="onnx",
        task=task,
        texts=said.texts,
        notes=(*notes, *said.notes),
        examples=lambda seed: make_feeds(task, size, seed),
        source=source,
    )


def _in_float32(path: Path, model: onnx.ModelProto, folder: Path) -> tuple[Path, onnx.ModelProto]:
    """The file and its model; where either has weights, inputs or outputs in float16, the same in float32."""
    edges = (value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output))
    if not _HALF.intersection((*edges, *(tensor.data_type for tensor in tensors(model)))):
        return path, model
    weights = Weights(path)
    find_pass("float32").apply(model, Context(weights=weights))
    made = write_normal(model, weights, folder / "float32.onnx")
    return made, read_model(made)


def _edge(path: Path, value: NodeArg, renamed: dict[str, str]) -> Edge:
    """An input or output; axes without a name, or with a formula (``renamed``) for one, are called by their place."""
    kind = _TYPES.get(value.type)
    if kind is None:
        raise InputError(f"{path}: {value.name} is a {value.type}; inputs and outputs must be tensors of numbers")
    if 0 in value.shape:
        raise InputError(f"{path}: {value.name} has an axis of size 0, so there is nothing to compute")
    shape = list[int | str]()
    for axis, size in enumerate(value.shape):
        place = f"{value.name}_{axis}"
        if isinstance(size, int):
            shape.append(size if size > 0 else place)
        elif not any(letter.isalnum() for letter in size or ""):  # "?", which converters write for all that they miss
            shape.append(place)
        else:
            shape.append(size if len(size) <= LONGEST_NAME else renamed.setdefault(size, place))
    return Edge(value.name, kind, tuple(shape))


DOOR = Door("onnx-file", "a file of ONNX", recognizes, open_file)
