"""Text classification: a text, or a pair of them, in, its labels out."""

from collections.abc import Sequence

from edgepress.processing.scores import Label, best_of
from edgepress.processing.text import Pair
from edgepress.runtime.tasks.common.texts import BATCH, TextModel
from edgepress.runtime.tasks.kinds import TaskKind
from edgepress.tasks.answers import Classes


class TextClassifier(TextModel):
    """``classify(text)``."""

    def classify(self, text: str | Pair, *, top: int | None = None) -> tuple[Label, ...]:
        """The labels of a text or pair, the best first; ``top`` takes the place of the number or threshold it has.

        Raises:
            InputError: it is no text.

        """
        return self.classify_all([text], top=top)[0]

    def classify_all(
        self, texts: Sequence[str | Pair], *, top: int | None = None, batch: int = BATCH
    ) -> list[tuple[Label, ...]]:
        """The labels of each text; those of about one length are computed together."""
        classes = self.part(Classes)
        rows = self.rows_of(self.encoder.encode(texts), classes.output, batch)
        return [best_of(row, classes, top) for row in rows]

    def answer(self, sample: object) -> tuple[Label, ...]:
        """The labels of a text or pair."""
        return self.classify(sample)  # type: ignore[arg-type]  # the encoder says what is none


TASK = TaskKind("text-classification", TextClassifier)
