"""Zero-shot image classification: an image and labels in, how well each goes with it out."""

from collections.abc import Sequence

import numpy as np

from edgepress.errors import InputError
from edgepress.processing.scores import Label, scores_of
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Matches


class ZeroShotClassifier(TaskModel):
    """``classify(image, labels)``."""

    takes = "images and --labels"

    def classify(self, image: object, labels: Sequence[str], *, template: str | None = None) -> tuple[Label, ...]:
        """The labels of an image, the best first.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or bytes as an array (h, w, channels).
            labels: what it may be, in words.
            template: the text that a label becomes, with ``{}`` in its place; by default the bundle's.

        Raises:
            InputError: the image cannot be read, there are no labels, or the template has no ``{}``.

        """
        part = self.part(Matches)
        required(self.task.images, self, "images")
        required(self.task.text, self, "text")
        written = part.template if template is None else template
        if "{}" not in written:
            raise InputError(f"the template is {written!r}; it needs {{}} where the label stands")
        if isinstance(labels, str) or not labels:
            raise InputError("classify takes a list of labels, at least one")
        texts = [written.replace("{}", label) for label in labels]
        scores = scores_of(self.run(self.feed((image, texts)))[part.output][0], part.scores)
        ranked = np.argsort(-scores, kind="stable")
        return tuple(Label(labels[index], float(scores[index]), int(index)) for index in ranked)

    def answer(self, sample: object) -> tuple[Label, ...]:
        """The labels of an image, which come with it as a tuple."""
        if not isinstance(sample, tuple) or len(sample) != 2:
            raise InputError(
                f"{self.folder} takes an image and labels; give --labels, or call classify(image, labels) from Python"
            )
        return self.classify(*sample)


TASK = TaskKind("zero-shot-image-classification", ZeroShotClassifier)
