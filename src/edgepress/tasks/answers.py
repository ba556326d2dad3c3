"""What a graph's outputs mean, as data: the entry ``answers`` of a task. It has the one part that its task reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count, Size

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Label = Annotated[str, msgspec.Meta(max_length=1000)]
Labels = Annotated[tuple[_Label, ...], msgspec.Meta(min_length=1, max_length=1_000_000)]
"""The name of each class, in the order of the output's last axis."""
Scores = Literal["softmax", "sigmoid", "none"]
"""What makes scores of an output: ``none`` where it gives probabilities already, or a number that is no probability."""
Pooling = Literal["mean", "cls", "last", "max", "none"]
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
class Embedding:
    """A vector of each text or image.

    ``pooling`` makes one of (batch, tokens, size): the ``mean`` of its tokens, the first (``cls``), the ``last``, or
    the ``max`` of each number; padding is left out. ``none`` is for an output that is (batch, size) already, or whose
    vectors of each token are the answer. ``normalize`` gives vectors the length 1.
    """

    output: _Name
    pooling: Pooling = "none"
    normalize: bool = False


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Scores of classes for each token, (batch, tokens, classes), told as spans of the text.

    Neighbouring tokens of one class make a span; ``B-`` before a label's name begins another one, ``I-`` goes on.
    Labels in ``outside`` are not told.
    """

    output: _Name
    labels: Labels
    scores: Scores = "softmax"
    outside: tuple[_Label, ...] = ("O",)


@dataclass(frozen=True, kw_only=True)
class Blanks:
    """Scores of the vocabulary for each token, (batch, tokens, vocabulary).

    They are told where a text has the token ``mask``, which is ``written`` so.
    """

    output: _Name
    mask: Size
    written: _Label
    top: Count = 5


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Scores of a ``vocabulary`` for each frame of a sound, (batch, frames, tokens), told as text [CTC, Graves 2006].

    The likeliest tokens are taken, repeated ones once, those with the number ``blank`` left out, and the rest joined;
    ``space`` is what the vocabulary writes between words. ``lower`` makes the text lower case.
    """

    output: _Name
    vocabulary: Labels
    blank: Size
    space: _Label = "|"
    lower: bool = False


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the outputs mean: one of these."""

    classes: Classes | None = None
    embedding: Embedding | None = None
    spans: Spans | None = None
    blanks: Blanks | None = None
    transcript: Transcript | None = None
