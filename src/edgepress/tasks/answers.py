"""What a graph's outputs mean, as data: the entry ``answers`` of a task. It has the one part that its task reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Label = Annotated[str, msgspec.Meta(max_length=1000)]
Labels = Annotated[tuple[_Label, ...], msgspec.Meta(min_length=1, max_length=1_000_000)]
"""The name of each class, in the order of the output's last axis."""
Scores = Literal["softmax", "sigmoid", "none"]
"""What makes scores of an output: ``none`` where it gives probabilities already, or a number that is no probability."""
Threshold = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Scores of classes, (batch, classes).

    With a ``threshold`` any number of classes may be right, those with at least that score; without one the ``top``
    best are told.
    """

    output: _Name
    labels: Labels
    scores: Scores = "softmax"
    threshold: Threshold | None = None
    top: Count = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the outputs mean: one of these."""

    classes: Classes | None = None
