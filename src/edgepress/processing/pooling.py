"""One vector for each text or image out of one for each of its tokens."""

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.tasks.answers import Embedding

Floats = NDArray[np.float32]


def embed(hidden: NDArray[np.generic], mask: NDArray[np.generic] | None, embedding: Embedding) -> Floats:
    """Vectors, (batch, size), of an output that is (batch, tokens, size), or has them already.

    ``mask``, (batch, tokens), is 1 where a token counts; None where all do.

    Raises:
        InputError: the output has no axis of tokens and is to be pooled.

    """
    values = np.asarray(hidden, np.float32)
    if embedding.pooling != "none":
        if values.ndim != 3:
            raise InputError(f"{embedding.output} has the shape {values.shape}; to pool it, it needs an axis of tokens")
        counted = np.ones(values.shape[:2], np.float32) if mask is None else np.asarray(mask, np.float32)
        values = _POOLINGS[embedding.pooling](values, counted)
    if embedding.normalize:
        values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.float32(1e-12))
    return values


def _mean(values: Floats, mask: Floats) -> Floats:
    total = np.matmul(mask[:, None, :], values)[:, 0]  # (batch, size)
    return np.asarray(total / np.maximum(mask.sum(axis=1, keepdims=True), np.float32(1e-9)))


def _first(values: Floats, mask: Floats) -> Floats:
    return np.asarray(values[np.arange(len(values)), mask.argmax(axis=1)])


def _last(values: Floats, mask: Floats) -> Floats:
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return np.asarray(values[np.arange(len(values)), last])


def _max(values: Floats, mask: Floats) -> Floats:
    return np.asarray(np.where(mask[:, :, None] > 0, values, -np.inf).max(axis=1), np.float32)


_POOLINGS = {"mean": _mean, "cls": _first, "last": _last, "max": _max}
