"""What the tasks of texts share: an encoder, and inputs for texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.text import Encoder, Pair, Tokens, by_length, text_feed
from edgepress.runtime.tasks.kinds import TaskModel, required

BATCH = 32
"""Texts that are computed at once, unless it is said otherwise."""


class TextModel(TaskModel):
    """An open bundle whose task takes texts."""

    takes = "a text"

    @property
    def encoder(self) -> Encoder:
        """The task's tokenizer, read when first used."""
        required(self.task.text, self, "text")
        return self.feeder.encoder

    def feed_of(self, tokens: Sequence[Tokens]) -> dict[str, NDArray[np.generic]]:
        """The graph's inputs for texts that are tokens already."""
        kinds = {edge.name: edge.type for edge in self.task.inputs}
        return text_feed(tokens, self.encoder.text, dict(kinds))

    def rows_of(self, tokens: Sequence[Tokens], output: str, batch: int = BATCH) -> list[NDArray[np.generic]]:
        """``output``'s row for each text, without the padding where it has an axis for tokens.

        Texts of about one length are computed together.
        """
        rows: dict[int, NDArray[np.generic]] = {}
        for numbers in by_length(tokens, batch):
            chosen = [tokens[number] for number in numbers]
            inputs = self.feed_of(chosen)
            values = self.run_rows(inputs)[output]
            width = inputs[self.encoder.text.ids].shape[1]
            for number, part, row in zip(numbers, chosen, values, strict=True):
                rows[number] = self._unpadded(row, part.ids.size, width)
        return [rows[number] for number in range(len(tokens))]

    def _unpadded(self, row: NDArray[np.generic], length: int, width: int) -> NDArray[np.generic]:
        if row.ndim < 2 or row.shape[0] != width:
            return row
        return row[:length] if self.encoder.text.side == "right" else row[width - length :]


Texts = Sequence[str | Pair]
