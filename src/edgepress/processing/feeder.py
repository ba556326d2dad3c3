"""From what a task takes to the inputs of its graph, whatever it takes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.arrays import read_arrays
from edgepress.processing.images import image_feed
from edgepress.processing.sound import sound_feed
from edgepress.processing.text import Encoder, text_feed
from edgepress.tasks.task import Task

Feed = dict[str, NDArray[np.generic]]
Takes = Literal["image", "sound", "text", "arrays"]


def what_is_taken(task: Task) -> Takes:
    """What one sample of a task is: by what stands before its graph."""
    if task.images is not None:
        return "image"
    if task.sound is not None:
        return "sound"
    reads = task.sequences is not None and task.sequences.source == "tokens"
    return "text" if reads or task.text is not None else "arrays"


class Feeder:
    """What makes inputs of samples; ``folder`` is where the files lie that the task names."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task = task
        self.folder = folder
        self.takes = what_is_taken(task)

    @cached_property
    def encoder(self) -> Encoder:
        """The task's tokenizer, read when first used."""
        if self.task.text is None:
            raise InputError(f"the task {self.task.name} takes no text")
        return Encoder(self.task.text, self.folder)

    def feed(self, samples: Sequence[object]) -> Feed:
        """The inputs for a batch of samples: images, sounds, texts, or arrays of one (a mapping, or an .npz file).

        Raises:
            InputError: one cannot be read, or they do not go into one batch.

        """
        task = self.task
        if task.answers is not None and task.answers.voice is not None:
            raise InputError(f"the task {task.name} carries values from piece to piece; give the inputs as .npz files")
        if task.images is not None and task.text is not None:
            return self._image_and_texts(samples)
        if task.images is not None:
            return image_feed(samples, task.images, task.input(task.images.input).type)
        if task.sound is not None:
            return sound_feed(samples, task.sound)
        if task.text is not None:
            return self._texts(samples)
        if len(samples) != 1:
            raise InputError(f"the task {task.name} takes the arrays of one call at a time, not {len(samples)}")
        return arrays_of(samples[0])

    def _texts(self, texts: Sequence[object]) -> Feed:
        kinds = {edge.name: str(edge.type) for edge in self.task.inputs}
        return text_feed(self.encoder.encode(list(texts)), self.encoder.text, kinds)

    def _image_and_texts(self, samples: Sequence[object]) -> Feed:
        """The inputs for an image and the texts that it may go with, a pair."""
        pair = samples[0] if len(samples) == 1 else None
        if self.task.images is None or not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(f"the task {self.task.name} takes one image and its texts, as a tuple (image, texts)")
        image, texts = pair
        pixels = image_feed([image], self.task.images, self.task.input(self.task.images.input).type)
        return {**pixels, **self._texts(texts)}


def arrays_of(sample: object) -> Feed:
    """The arrays of a mapping, or of an .npz file.

    Raises:
        InputError: it is neither.

    """
    if isinstance(sample, str | Path):
        return read_arrays(Path(sample))
    if isinstance(sample, dict):
        return {str(name): np.asarray(array) for name, array in sample.items()}
    raise InputError(f"inputs are arrays by their names, or a file of them (.npz), not {type(sample).__name__}")
