"""Semantic segmentation: an image in, the class of each of its pixels out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.images import read_image
from edgepress.processing.maps import best_class
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Segments


@dataclass(frozen=True)
class Area:
    """A class that is in an image, and its share of the pixels."""

    label: str
    share: float
    index: int


@dataclass(frozen=True)
class Segmentation:
    """The class of each pixel, (height, width), as numbers of labels; and the classes that there are, largest first."""

    classes: NDArray[np.int32]
    areas: tuple[Area, ...]


class Segmenter(TaskModel):
    """``segment(image)``."""

    takes = "an image file"

    def segment(self, image: object) -> Segmentation:
        """The class of each pixel of an image.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or bytes as an array (h, w, channels).

        Raises:
            InputError: the image cannot be read.

        """
        part = self.part(Segments)
        pixels = read_image(image, required(self.task.images, self, "images").mode)
        logits = self.run_rows(self.feed(pixels))[part.output][0]
        classes = best_class(logits, *pixels.shape[:2])
        counts = np.bincount(classes.ravel(), minlength=len(part.labels))
        found = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
        areas = (Area(part.labels[index], float(counts[index] / classes.size), int(index)) for index in found)
        return Segmentation(classes, tuple(areas))

    def answer(self, sample: object) -> Segmentation:
        """The class of each pixel of an image."""
        return self.segment(sample)


TASK = TaskKind("semantic-segmentation", Segmenter)
