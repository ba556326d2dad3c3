"""An ONNX file, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from edgepress.errors import InputError
from edgepress.exporter.doors.kinds import Door, Options
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.doors.traced import Feed, Traced
from edgepress.exporter.graph.foreign.normal import refuse_unusable
from edgepress.exporter.source.onnx_file import hash_files
from edgepress.onnx_graph.files import read_model
from edgepress.sessions import open_on_cpu, session_options
from edgepress.tasks.task import Edge, EdgeType

if TYPE_CHECKING:
    from onnxruntime import NodeArg

_TYPES: dict[str, EdgeType] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in get_args(EdgeType) if kind not in ("float32", "float64")},
}
_SIZES = (8, 16, 32, 64, 128, 224, 256, 512, 1024, 3, 1)  # that free axes are tried with, where 8 is refused
_TRIED = 3  # feeds that must run
_FATAL = 4  # onnxruntime's log severity: a size that is refused is no error


def recognizes(reference: str) -> bool:
    """Whether a file is named that ends in .onnx."""
    return Path(reference).suffix.lower() == ".onnx" and Path(reference).is_file()


def open_file(reference: str, options: Options, _folder: Path) -> Traced:
    """Read the edges of a file's graph; it is its own original.

    Raises:
        InputError: it is no model that onnxruntime opens, or an input or output is no tensor of numbers.

    """
    path = Path(reference)
    model = read_model(path)
    refuse_unusable(path, model)
    try:
        session = open_on_cpu(path)
    except Exception as error:  # onnxruntime's exceptions have no common type
        raise InputError(f"{path} cannot be opened: {error}") from error
    inputs = tuple(_edge(path, value) for value in session.get_inputs())
    outputs = tuple(_edge(path, value) for value in session.get_outputs())
    if not inputs:
        raise InputError(f"{path} has no inputs, so what it gives is a constant; there is nothing to run")
    said = task_of(options.task, inputs, outputs, path.parent)
    size = find_size(path, inputs)
    return Traced(
        file=path,
        model_type="onnx",
        task=said.task,
        texts=said.texts,
        notes=said.notes,
        examples=lambda seed: make_feeds(inputs, size, seed),
        source=hash_files(path, model),
    )


def _edge(path: Path, value: NodeArg) -> Edge:
    kind = _TYPES.get(value.type)
    if kind is None:
        raise InputError(f"{path}: {value.name} is a {value.type}; inputs and outputs must be tensors of numbers")
    shape = tuple(
        size if isinstance(size, int) else str(size or f"{value.name}_{axis}") for axis, size in enumerate(value.shape)
    )
    return Edge(value.name, kind, shape)


def make_feeds(inputs: tuple[Edge, ...], size: int, seed: int) -> Iterator[Feed]:
    """Made-up inputs without end: normal numbers, and 0 or 1; free axes have ``size``, those that come first 1 or 2."""
    first = {str(edge.shape[0]) for edge in inputs if edge.shape and isinstance(edge.shape[0], str)}
    for number in count():
        random = np.random.default_rng([seed, number])
        sizes = dict.fromkeys(first, 1 + number % 2)
        feed = {}
        for edge in inputs:
            shape = [axis if isinstance(axis, int) else sizes.get(axis, size) for axis in edge.shape]
            if edge.type.startswith("float"):
                feed[edge.name] = np.asarray(random.standard_normal(shape), edge.type)
            else:
                feed[edge.name] = np.asarray(random.integers(0, 2, shape), edge.type)
        yield feed


def find_size(path: Path, inputs: tuple[Edge, ...]) -> int:
    """A size of free axes that the graph takes; the first that is tried where it takes none of them."""
    options = session_options()
    options.log_severity_level = _FATAL
    session = open_on_cpu(path, options)
    for size in _SIZES:
        with suppress(Exception):  # onnxruntime's exceptions have no common type; the next size may do
            for feed in islice(make_feeds(inputs, size, 0), _TRIED):
                session.run(None, dict(feed))
            return size
    return _SIZES[0]


DOOR = Door("onnx-file", "a file of ONNX", recognizes, open_file)
