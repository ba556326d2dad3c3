"""Example inputs of a model: made-up numbers of the types and shapes that its task says."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, islice
from math import ceil

import numpy as np
from numpy.typing import NDArray

from edgepress.tasks.answers import Voice
from edgepress.tasks.images import Images
from edgepress.tasks.sound import Sound
from edgepress.tasks.task import Axis, Edge, Task, made_size

Feed = dict[str, NDArray[np.generic]]

_SIZES = (8, 16, 32, 64, 128, 224, 256, 512, 1024, 3, 1)  # that free axes are tried with
_TRIED = 3  # feeds that must run


def usual_inputs(task: Task) -> tuple[Edge, ...]:
    """The inputs of a task, free axes as numbers where every call has the same size.

    A detector of voices takes one piece of a sound at a time, and what it carries from call to call.
    """
    voice = _voice(task)
    if voice is None or task.sound is None:
        return task.inputs
    shapes: dict[str, tuple[int, ...]] = {one.input: one.shape for one in voice.carried}
    if len(task.input(task.sound.input).shape) == 2:
        shapes[task.sound.input] = (1, voice.context + voice.chunk)
    return tuple(replace(edge, shape=shapes.get(edge.name, edge.shape)) for edge in task.inputs)


def usual_size(task: Task) -> int | None:
    """The size of the free axes with which a model is used, None where its task says nothing of it.

    That is a second of sound, the larger side of an image as it is made, the tokens that every text is padded to.
    """
    if task.sound is not None:
        name, size = task.sound.input, _of_a_second(task.sound)
    elif task.images is not None and (made := _of_an_image(task.images)) is not None:
        name, size = task.images.input, max(made)
    elif task.text is not None and task.text.length is not None:
        name, size = task.text.ids, task.text.length
    else:
        return None
    axes = {axis.name: axis for axis in task.axes or ()}
    for axis in task.input(name).shape[1:]:
        if axis in axes:
            size = _allowed(axes[axis], size)
    return size


def make_feeds(task: Task, size: int, seed: int = 0, rows: int | None = None) -> Iterator[Feed]:
    """Inputs without end: numbers of a normal distribution, whole numbers of 0 and 1, and constants of the task.

    Of numbers that the graph looks for, each has its turn, for two feeds, and then none.
    Axes that are free in :func:`usual_inputs` have ``size``; those that come first in an input ``rows``, 1 and 2 in
    turn where that is None.
    """
    inputs, voice = usual_inputs(task), _voice(task)
    constants = {} if voice is None else voice.constants
    first = {str(edge.shape[0]) for edge in inputs if edge.shape and isinstance(edge.shape[0], str)}
    for number in count():
        random = np.random.default_rng([seed, number])
        sizes = dict.fromkeys(first, 1 + number % 2 if rows is None else rows)
        feed: Feed = {}
        for edge in inputs:
            shape = [axis if isinstance(axis, int) else sizes.get(axis, size) for axis in edge.shape]
            made = random.standard_normal(shape) if edge.type.startswith("float") else random.integers(0, 2, shape)
            feed[edge.name] = np.asarray(made, edge.type)
            choices = (task.choices or {}).get(edge.name, ())
            if (turn := number // 2 % (len(choices) + 1)) < len(choices):
                feed[edge.name] = np.full(shape, choices[turn], edge.type)
            if edge.name in constants:
                feed[edge.name] = np.full(shape, constants[edge.name], edge.type)
        yield feed


def find_size(run: Callable[[Feed], Mapping[str, object] | Sequence[object]], task: Task) -> int | None:
    """A size of free axes with which ``run`` takes made-up inputs, the usual one if it does; else None."""
    usual = usual_size(task)
    for size in (*([] if usual is None else [usual]), *_SIZES):
        with suppress(Exception):  # onnxruntime's exceptions have no common type; the next size may do
            for feed in islice(make_feeds(task, size), _TRIED):
                run(feed)
            return size
    return None


def _voice(task: Task) -> Voice | None:
    return None if task.answers is None else task.answers.voice


def _of_a_second(sound: Sound) -> int:
    """Samples of a second of sound, or frames of its spectrogram; as many as every input has where that is said."""
    samples = sound.length or max(sound.least, sound.rate)
    if sound.mel is None:
        return samples
    return max((sound.frames or samples // sound.mel.hop) // sound.stack, 1)


def _of_an_image(images: Images) -> tuple[int, int] | None:
    """Height and width as it is made, or as a size is asked for that the image has a say in."""
    made = made_size(images)
    return made if made is not None or images.resize is None else (images.resize.height, images.resize.width)


def _allowed(axis: Axis, size: int) -> int:
    """The next size from ``size`` on that an axis may have; where there is none, the largest."""
    steps = ceil(max(size, axis.least) / axis.multiple)
    return (steps if axis.most is None else min(steps, axis.most // axis.multiple)) * axis.multiple
