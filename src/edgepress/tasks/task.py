"""What a bundle takes and gives, as the manifest says it: the entry ``task``.

A language model has none: its inputs are tokens and states. Any other model has a task, such as
``image-classification``, and its edges, the inputs and outputs of its graph::

    Task("image-classification",
         inputs=(Edge("pixel_values", "float32", ("batch", 3, 224, 224)),),
         outputs=(Edge("logits", "float32", ("batch", 1000)),))

``tensors`` is the task of a model of which nothing else is known: arrays go in and come out as they are.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count

EdgeType = Literal[
    "float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Shape = Annotated[tuple[Count | _Name, ...], msgspec.Meta(max_length=16)]

TENSORS = "tensors"
"""The task of a model of which nothing is known but its edges."""


@dataclass(frozen=True)
class Edge:
    """An input or output of a graph; axes that calls choose have names, and one name is one size in a call."""

    name: _Name
    type: EdgeType
    shape: _Shape


@dataclass(frozen=True)
class Task:
    """What a bundle is for: the key of its task, and the edges of its graph."""

    name: _Name
    inputs: Annotated[tuple[Edge, ...], msgspec.Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[Edge, ...], msgspec.Meta(min_length=1, max_length=256)]


def check_task(task: Task) -> None:
    """Raise a ValueError unless every edge of ``task`` has a name of its own."""
    for edges in (task.inputs, task.outputs):
        name, count = Counter(edge.name for edge in edges).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} edges are called {name}")
