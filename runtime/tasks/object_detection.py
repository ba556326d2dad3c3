"""Object detection: an image in, the objects in it out."""

from edgepress.processing.boxes import Detection, detections_of
from edgepress.processing.images import read_image
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Boxes


class Detector(TaskModel):
    """``detect(image)``."""

    takes = "an image file"

    def detect(self, image: object, *, threshold: float | None = None) -> tuple[Detection, ...]:
        """The objects in an image, the surest first; ``threshold`` takes the place of the bundle's.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or bytes as an array (h, w, channels).
            threshold: the score that an object has more than.

        Raises:
            InputError: the image cannot be read.

        """
        part, images = self.part(Boxes), required(self.task.images, self, "images")
        pixels = read_image(image, images.mode)
        feed = self.feed(pixels)
        made = feed[images.input].shape[2:] if images.layout == "NCHW" else feed[images.input].shape[1:3]
        outputs = self.run_rows(feed)
        logits, boxes = outputs[part.output][0], outputs[part.boxes][0]
        height, width = pixels.shape[:2]
        return detections_of(logits, boxes, part, image=(height, width), made=(made[0], made[1]), threshold=threshold)

    def answer(self, sample: object) -> tuple[Detection, ...]:
        """The objects in an image."""
        return self.detect(sample)


TASK = TaskKind("object-detection", Detector)
