"""Feature extraction: texts in, a vector for each out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.pooling import embed
from edgepress.runtime.tasks.common.texts import BATCH, TextModel
from edgepress.runtime.tasks.kinds import TaskKind
from edgepress.tasks.answers import Embedding

Floats = NDArray[np.float32]


class Embedder(TextModel):
    """``embed(texts)``, ``similarity(texts, others)``."""

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, batch: int = BATCH) -> Floats:
        """A vector for each text, (texts, size).

        Args:
            texts: any number of them; those of about one length are computed together.
            prompt: the name of the bundle's prompt that is put before each, such as ``query``.
            batch: how many are computed at once.

        Raises:
            InputError: one is no text, there is no such prompt, or the bundle gives a vector for each token; then
                :meth:`tokens` has them.

        """
        if isinstance(texts, str):
            raise InputError("embed takes a list of texts; for one text give a list of it")
        embedding = self.part(Embedding)
        rows = self.rows_of(self.encoder.encode(texts, prompt), embedding.output, batch)
        vectors = [embed(row[None], None, embedding)[0] for row in rows]
        if any(vector.ndim != 1 for vector in vectors):
            raise InputError(
                f"{self.folder} gives a vector for each token; tokens() has them, and an export with `pooling` in its "
                "--task FILE.json, or of a folder with modules.json, gives one for each text"
            )
        return np.stack(vectors) if vectors else np.zeros((0, self._size(embedding)), np.float32)

    def tokens(self, text: str, *, prompt: str | None = None) -> Floats:
        """The vectors of a text's tokens, (tokens, size), as the graph gives them."""
        row = self.rows_of(self.encoder.encode([text], prompt), self.part(Embedding).output)[0]
        return np.asarray(row, np.float32)

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> Floats:
        """Cosines between texts, (texts, others)."""
        first, second = (_normal(self.embed(part)) for part in (texts, others))
        return np.asarray(first @ second.T)

    def answer(self, sample: object) -> Floats:
        """The vector of a text, or those of its tokens where the bundle makes no one of them."""
        embedding = self.part(Embedding)
        encoded = self.encoder.encode([sample], None)
        return np.asarray(embed(self.rows_of(encoded, embedding.output)[0][None], None, embedding)[0])

    def _size(self, embedding: Embedding) -> int:
        size = self.task.output(embedding.output).shape[-1]
        return size if isinstance(size, int) else 0


def _normal(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12)))


TASK = TaskKind("feature-extraction", Embedder)
