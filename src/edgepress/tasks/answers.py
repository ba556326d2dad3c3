"""What a graph's outputs mean, as data: the entry ``answers`` of a task. It has the one part that its task reads."""

from dataclasses import dataclass, field
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
    ``space`` is what the vocabulary writes between words. ``lower`` makes the text lower case. A frame begins ``hop``
    samples after the one before it; None where that is not known, so that sound cannot go in windows.
    """

    output: _Name
    vocabulary: Labels
    blank: Size
    space: _Label = "|"
    lower: bool = False
    hop: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Objects in an image: scores in ``output``, (batch, queries, classes), and ``boxes``, (batch, queries, 4).

    With ``softmax`` a query is one object, of its likeliest class, and the output has one class more than there are
    labels, the last, for none; with ``sigmoid`` each class of a query is an object of its own. ``form`` says what a
    box's numbers are: ``centre`` (x, y), width and height, or ``corners``, left, top, right and bottom; ``unit``
    whether they are shares of the image or pixels of what the graph takes. The ``top`` surest of more than
    ``threshold`` are told; with ``overlap`` those of one class that share more than that of their area are one.
    """

    output: _Name
    boxes: _Name
    labels: Labels
    scores: Literal["softmax", "sigmoid", "none"] = "softmax"
    form: Literal["centre", "corners"] = "centre"
    unit: Literal["shares", "pixels"] = "shares"
    threshold: Threshold = 0.5
    top: Count = 300
    overlap: Threshold | None = None


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Scores of classes for each pixel, (batch, classes, height, width), of a smaller map as a rule.

    They are resized to the image bilinearly, corners not aligned; the likeliest class of each pixel is told.
    """

    output: _Name
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Depth:
    """A number for each pixel, (batch, height, width), that is resized to the image bicubically, corners not aligned.

    What it means (a distance, or its inverse up to a scale) is the model's.
    """

    output: _Name


@dataclass(frozen=True, kw_only=True)
class Matches:
    """How well each image goes with each text, (images, texts).

    Labels become texts by the ``template``, in which ``{}`` stands for the label.
    """

    output: _Name
    scores: Literal["softmax", "sigmoid"] = "softmax"
    template: _Label = "This is a photo of {}."


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What a graph hands on from call to call: an output that is the next call's input, zeros of ``shape`` at first."""

    input: _Name
    output: _Name
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=8)]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """The probability of speech in each piece of ``chunk`` samples, (1, 1), of a sound that comes in pieces.

    A call gets the ``context`` samples before a piece as well, zeros at first, what is ``carried``, and ``constants``.
    Speech begins at ``threshold`` and goes on above ``threshold − slack``; it ends after ``silence`` seconds below,
    counts from ``speech`` seconds on, and gets a ``margin`` of seconds at both ends.
    """

    output: _Name
    chunk: Count
    context: Size = 0
    carried: tuple[Carried, ...] = ()
    constants: dict[str, int] = field(default_factory=dict)
    threshold: Threshold = 0.5
    slack: Threshold = 0.15
    speech: Annotated[float, msgspec.Meta(ge=0)] = 0.25
    silence: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    margin: Annotated[float, msgspec.Meta(ge=0)] = 0.03


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the outputs mean: one of these."""

    classes: Classes | None = None
    embedding: Embedding | None = None
    spans: Spans | None = None
    blanks: Blanks | None = None
    transcript: Transcript | None = None
    boxes: Boxes | None = None
    segments: Segments | None = None
    depth: Depth | None = None
    matches: Matches | None = None
    voice: Voice | None = None
