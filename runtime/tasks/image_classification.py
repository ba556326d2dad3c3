"""Image classification: an image in, its labels out."""

from collections.abc import Sequence

from edgepress.processing.scores import Label, best_of
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Classes


class ImageClassifier(TaskModel):
    """``classify(image)``."""

    takes = "an image file"

    def classify(self, image: object, *, top: int | None = None) -> tuple[Label, ...]:
        """The labels of an image, the best first; ``top`` takes the place of the number or threshold that it has.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or bytes as an array (h, w, channels).
            top: how many labels.

        Raises:
            InputError: the image cannot be read.

        """
        return self.classify_all([image], top=top)[0]

    def classify_all(self, images: Sequence[object], *, top: int | None = None) -> list[tuple[Label, ...]]:
        """The labels of each image, computed as one batch."""
        if not len(images):  # an array of images has no truth of its own
            return []
        classes = self.part(Classes)
        required(self.task.images, self, "images")
        outputs = self.run_rows(self.feeder.feed(images))
        return [best_of(logits, classes, top) for logits in outputs[classes.output]]

    def answer(self, sample: object) -> tuple[Label, ...]:
        """The labels of an image."""
        return self.classify(sample)


TASK = TaskKind("image-classification", ImageClassifier)
