"""Features of images: images in, a vector for each out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.pooling import embed
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Embedding

Floats = NDArray[np.float32]


class ImageEmbedder(TaskModel):
    """``embed(images)``."""

    takes = "an image file"

    def embed(self, images: Sequence[object]) -> Floats:
        """A vector for each image, (images, size).

        Args:
            images: paths, bytes of files, images of Pillow, or bytes as arrays (h, w, channels).

        Raises:
            InputError: one cannot be read, or an image is given in place of a list of them.

        """
        if isinstance(images, str | bytes | Path):
            raise InputError("embed takes a list of images; for one image give a list of it")
        embedding = self.part(Embedding)
        required(self.task.images, self, "images")
        rows = [self.run_rows(self.feed(image))[embedding.output] for image in images]
        vectors = [embed(row, None, embedding)[0] for row in rows]
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def answer(self, sample: object) -> Floats:
        """The vector of an image."""
        return np.asarray(self.embed([sample])[0])


TASK = TaskKind("image-feature-extraction", ImageEmbedder)
