"""What an ONNX file does not say of its inputs: which axes are the batch's, which numbers it looks for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import onnx
from onnx import numpy_helper

from edgepress.examples import Feed, find_size
from edgepress.onnx_graph.values import Scope, elements
from edgepress.onnx_graph.walk import graphs
from edgepress.tasks.task import Edge, Task

_MOST_AXES, _MOST_TOGETHER = 8, 2  # axes that are tried, so many at a time: each try runs the graph at many sizes
_MOVES = ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape")
_Run = Callable[[Feed], Mapping[str, object] | Sequence[object]]


def numbers_looked_for(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The whole numbers that each input is compared with (Equal), as a rate of samples is that chooses a branch."""
    found: dict[str, list[int]] = {}
    outer = Scope(model)
    for graph in graphs(model.graph):
        scope = Scope(model, graph)
        for node in graph.node:
            if node.op_type != "Equal" or node.domain:
                continue
            for asked, other in (tuple(node.input), tuple(reversed(node.input))):
                constant = scope.constants.get(other)
                if constant is None or elements(constant) != 1:
                    continue
                number = numpy_helper.to_array(constant).reshape(-1)[0]
                if number.dtype.kind in "iu":
                    found.setdefault(_origin(asked, (scope, outer)), []).append(int(number))
    inputs = {value.name for value in model.graph.input} - outer.constants.keys()
    return {name: tuple(dict.fromkeys(values)) for name, values in found.items() if name in inputs}


def _origin(name: str, scopes: Sequence[Scope]) -> str:
    """What a value was before it was cast or got another shape."""
    for scope in scopes:
        while (node := scope.makers.get(name)) is not None and node.op_type in _MOVES:
            name = node.input[0]
    return name


def find_batch(task: Task, unnamed: frozenset[str], run: _Run) -> Task | None:
    """The task with the batch's axes under one name, with which ``run`` takes made-up inputs; None where it never does.

    ``unnamed`` are names of ours for axes that the file gives none. The inputs behind the first are tried first: a
    state is one for each row of a batch, and its file need not say so.
    """
    first = next((str(edge.shape[0]) for edge in task.inputs if edge.shape and isinstance(edge.shape[0], str)), None)
    if first is None:
        return None
    for some in _choices(task.inputs, unnamed):
        names = dict.fromkeys(some, first)
        named = replace(task, inputs=_renamed(task.inputs, names), outputs=_renamed(task.outputs, names))
        if find_size(run, named) is not None:
            return named
    return None


def _choices(inputs: Sequence[Edge], unnamed: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Axes that may be the batch's, one, then several."""
    axes = [str(axis) for edge in (*inputs[1:], *inputs[:1]) for axis in edge.shape[1:] if axis in unnamed]
    for count in range(1, _MOST_TOGETHER + 1):
        yield from combinations(axes[:_MOST_AXES], count)
    if len(axes) > _MOST_TOGETHER:
        yield tuple(axes)


def _renamed(edges: tuple[Edge, ...], names: Mapping[str, str]) -> tuple[Edge, ...]:
    return tuple(replace(edge, shape=tuple(names.get(str(axis), axis) for axis in edge.shape)) for edge in edges)
