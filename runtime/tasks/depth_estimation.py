"""Depth estimation: an image in, a number for each of its pixels out."""

from edgepress.processing.images import read_image
from edgepress.processing.maps import Floats, resize_map
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Depth


class DepthEstimator(TaskModel):
    """``depth(image)``."""

    takes = "an image file"

    def depth(self, image: object) -> Floats:
        """The depth of each pixel of an image, (height, width), in the model's own unit.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or bytes as an array (h, w, channels).

        Raises:
            InputError: the image cannot be read.

        """
        part = self.part(Depth)
        pixels = read_image(image, required(self.task.images, self, "images").mode)
        values = self.run_rows(self.feed(pixels))[part.output][0]
        height, width = pixels.shape[:2]
        return resize_map(values.reshape(values.shape[-2:]), height, width, "bicubic")

    def answer(self, sample: object) -> Floats:
        """The depth of each pixel of an image."""
        return self.depth(sample)


TASK = TaskKind("depth-estimation", DepthEstimator)
