"""What a bundle takes and gives, as the manifest says it: the entry ``task``.

A language model has none: its inputs are tokens and states. Any other model has a task, such as
``image-classification``, and its edges, the inputs and outputs of its graph::

    Task("image-classification",
         inputs=(Edge("pixel_values", "float32", ("batch", 3, 224, 224)),),
         outputs=(Edge("logits", "float32", ("batch", 1000)),))

``tensors`` is the task of a model of which nothing else is known: arrays go in and come out as they are. What stands
before and behind the graph of any other is data too: how an image (:mod:`.images`), a sound (:mod:`.sound`) or a text
(:mod:`.text`) becomes inputs, what outputs mean (:mod:`.answers`), and how an encoder and a decoder write
(:mod:`.sequences`). The runtime does as it says (runtime/tasks/), and so can an app.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import msgspec

from edgepress.schema import Count
from edgepress.tasks.answers import Answers, Boxes, Segments, Voice
from edgepress.tasks.images import Images, check_images
from edgepress.tasks.sequences import Sequences, check_sequences
from edgepress.tasks.sound import Sound, check_sound
from edgepress.tasks.text import Text, check_text

EdgeType = Literal[
    "float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]
LONGEST_NAME = 200
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]
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
class Axis:
    """An axis whose size a call chooses: its name, a number whose multiples all sizes are, the least and the most."""

    name: _Name
    multiple: Count = 1
    least: Count = 1
    most: Count | None = None

    def allows(self, size: int) -> bool:
        """Whether it may be that long."""
        return self.least <= size <= (self.most or size) and size % self.multiple == 0

    def words(self) -> str:
        """Which sizes it may have, in words."""
        sizes = f"{self.least} to {self.most}" if self.most is not None else f"{self.least} or more"
        return f"{sizes}, in steps of {self.multiple}" if self.multiple > 1 else sizes


@dataclass(frozen=True)
class Task:
    """What a bundle is for: the key of its task, the edges of its graph, and what stands before and behind it.

    ``axes`` are the free axes of the inputs that may not have any size, under the names that they have there.
    ``choices`` are numbers that the graph looks for in inputs: what it computes depends on whether it finds one.
    """

    name: _Name
    inputs: Annotated[tuple[Edge, ...], msgspec.Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[Edge, ...], msgspec.Meta(min_length=1, max_length=256)]
    images: Images | None = None
    sound: Sound | None = None
    text: Text | None = None
    answers: Answers | None = None
    sequences: Sequences | None = None
    axes: Annotated[tuple[Axis, ...], msgspec.Meta(max_length=64)] | None = None
    choices: Annotated[dict[_Name, tuple[int, ...]], msgspec.Meta(max_length=64)] | None = None

    def input(self, name: str) -> Edge:
        """The input of that name."""
        return next(edge for edge in self.inputs if edge.name == name)

    def output(self, name: str) -> Edge:
        """The output of that name."""
        return next(edge for edge in self.outputs if edge.name == name)

    def as_json(self) -> dict[str, object]:
        """Its entries as JSON has them, without those that it does not have."""
        return _present(asdict(self))


class TaskEntry(msgspec.Struct, frozen=True):
    """What a manifest says of it."""

    task: Task


def _present(entries: dict[str, object]) -> dict[str, object]:
    """The entries that are not None, at every level."""
    return {
        key: _present(value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if value is not None
    }


def check_task(task: Task) -> None:
    """Raise a ValueError unless every edge has a name of its own, and what stands before and behind fits the edges."""
    for edges in (task.inputs, task.outputs):
        name, count = Counter(edge.name for edge in edges).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} edges are called {name}")
    if task.images is not None:
        check_images(task.images)
        _check_inputs(task, "images", (task.images.input, task.images.mask))
        _check_image_edge(task.images, task.input(task.images.input))
    if task.sound is not None:
        check_sound(task.sound)
        _check_inputs(task, "sounds", (task.sound.input, task.sound.mask))
        _check_sound_edge(task.sound, task.input(task.sound.input))
    if task.text is not None:
        check_text(task.text)
        _check_inputs(task, "texts", (task.text.ids, task.text.mask, task.text.types))
        _check_text_edge(task.text, task.input(task.text.ids))
    if task.answers is not None and task.answers.voice is not None:
        voice = task.answers.voice
        _check_inputs(
            task, "what is carried, and constants,", (*(one.input for one in voice.carried), *voice.constants)
        )
        _check_carried(task, voice)
    for part in _parts(task.answers):
        _check_outputs(task, part)
    if task.sequences is not None:
        check_sequences(task.sequences)
    free = {axis for edge in task.inputs for axis in edge.shape}
    for axis in task.axes or ():
        if axis.name not in free:
            raise ValueError(f"there are sizes for the axis {axis.name}, which no input has")
        if axis.most is not None and axis.least > axis.most:
            raise ValueError(f"the axis {axis.name} is {axis.least} at least and {axis.most} at most")


def _parts(answers: Answers | None) -> Iterator[Any]:
    """The parts that there are."""
    if answers is not None:
        yield from filter(None, (getattr(answers, field.name) for field in fields(answers)))


def _check_inputs(task: Task, what: str, names: tuple[str | None, ...]) -> None:
    inputs = [edge.name for edge in task.inputs]
    for name in filter(None, names):
        if name not in inputs:
            raise ValueError(f"{what} become the input {name}; the graph has {', '.join(inputs)}")


def _check_image_edge(images: Images, edge: Edge) -> None:
    """Raise a ValueError where the graph takes images of a size or a number of channels that are never made."""
    if len(edge.shape) != 4:
        raise ValueError(f"images become the input {edge.name}, which has {len(edge.shape)} axes; they have 4")
    _, *sizes = edge.shape
    channels = sizes.pop(0 if images.layout == "NCHW" else 2)
    if isinstance(channels, int) and channels != images.channels:
        raise ValueError(
            f"images of mode {images.mode} have {images.channels} channels, the input {edge.name} {channels}"
        )
    made = made_size(images)
    for name, size, of_images in zip(("high", "wide"), sizes, made or (), strict=made is not None):
        if isinstance(size, int) and size != of_images:
            raise ValueError(f"images are made {of_images} pixels {name}, the input {edge.name} takes {size}")


def _check_sound_edge(sound: Sound, edge: Edge) -> None:
    """Raise a ValueError where the graph takes sound of another length, or spectrograms of another size, than made."""
    axes = 2 if sound.mel is None else 3
    if len(edge.shape) != axes:
        raise ValueError(f"sounds become the input {edge.name}, which has {len(edge.shape)} axes; they have {axes}")
    made: tuple[int | None, ...] = (sound.length,)
    if sound.mel is not None:
        frames = None if sound.frames is None else sound.frames // sound.stack
        if sound.length is not None:
            border = sound.mel.n_fft // 2 * 2 if sound.mel.centred else 0
            frames = (sound.length + border - sound.mel.frame) // sound.mel.hop + 1 - sound.mel.drop_last
        made = (frames, sound.mel.bins * sound.stack)
        made = made if sound.layout == "frames, bins" else made[::-1]
    for size, of_sounds in zip(edge.shape[1:], made, strict=True):
        if isinstance(size, int) and size != of_sounds:
            raise ValueError(
                f"sounds have the shape {('batch', *(of or 'any' for of in made))}, the input {edge.name} {edge.shape}"
            )


def _check_text_edge(text: Text, edge: Edge) -> None:
    """Raise a ValueError where the graph takes a number of tokens that texts do not have."""
    tokens = edge.shape[-1] if len(edge.shape) == 2 else None
    if tokens is None:
        raise ValueError(f"texts become the input {edge.name}, which has {len(edge.shape)} axes; they have 2")
    if isinstance(tokens, int) and tokens != text.length:
        raise ValueError(f"texts are padded to {text.length or 'their longest'}, the input {edge.name} takes {tokens}")


def made_size(images: Images) -> tuple[int, int] | None:
    """The height and width of every image that is made, None where they depend on the image."""
    if images.pad is not None and images.pad.height is not None and images.pad.width is not None:
        return images.pad.height, images.pad.width
    if images.pad is not None and images.pad.multiple_of > 1:
        return None
    if images.crop is not None:
        return images.crop.height, images.crop.width
    if images.resize is not None and images.resize.fit == "stretch":
        return images.resize.height, images.resize.width
    return None


def _check_carried(task: Task, voice: Voice) -> None:
    """Raise a ValueError where what is carried does not fit the graph."""
    outputs = {edge.name for edge in task.outputs}
    for one in voice.carried:
        edge = task.input(one.input)
        fixed = [(size, wanted) for size, wanted in zip(one.shape, edge.shape, strict=False) if isinstance(wanted, int)]
        if len(one.shape) != len(edge.shape) or any(size != wanted for size, wanted in fixed):
            raise ValueError(f"{one.input} is carried with the shape {one.shape}, the graph takes {edge.shape}")
        if one.output not in outputs:
            raise ValueError(
                f"{one.input} is carried from the output {one.output}, and the graph has none of that name"
            )


def _check_outputs(task: Task, part: Any) -> None:
    """Raise a ValueError where an output is not there, or has another number of classes than there are labels."""
    outputs = [edge.name for edge in task.outputs]
    for name in filter(None, (part.output, getattr(part, "boxes", None))):
        if name not in outputs:
            raise ValueError(f"answers are read from the output {name}; the graph has {', '.join(outputs)}")
    labels = getattr(part, "labels", getattr(part, "vocabulary", None))
    shape = task.output(part.output).shape
    axis = 1 if isinstance(part, Segments) else -1
    if labels is None or len(shape) <= abs(axis) - (axis < 0):
        return
    classes = shape[axis]
    named = len(labels) + (isinstance(part, Boxes) and part.scores == "softmax")
    if isinstance(classes, int) and classes != named:
        also = ", and one class is for no object" if named > len(labels) else ""
        raise ValueError(
            f"there are {len(labels):,} labels{also}, and the output {part.output} has {classes:,} classes"
        )
