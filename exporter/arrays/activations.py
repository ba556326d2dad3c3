"""Activations between layers, in a file: they may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.disk.files import read_into
from edgepress.errors import InputError

BATCH_TOKENS = 2048  # tokens computed at once: bounds what a layer's intermediate activations take


class Activations:
    """A float32 array (sequences, length, hidden) on disk, read and written a batch of sequences at a time."""

    def __init__(self, path: Path, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> None:
        self.path, self.shape, self.device = path, shape, device
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(4 * shape[0] * shape[1] * shape[2])

    def batches(self, tokens: int | None = None) -> list[slice]:
        """Which sequences are computed together: as many as have at most ``tokens``, or one; BATCH_TOKENS when None."""
        size = max(1, (tokens or BATCH_TOKENS) // self.shape[1])
        return [slice(start, min(start + size, self.shape[0])) for start in range(0, self.shape[0], size)]

    def read(self, batch: slice) -> Tensor:
        """Sequences of a batch, (sequences, length, hidden).

        Raises:
            InputError: the file has become shorter.

        """
        _, length, hidden = self.shape
        values = np.empty((batch.stop - batch.start, length, hidden), np.float32)
        if read_into(self.path, 4 * batch.start * length * hidden, values.data) != values.nbytes:
            raise InputError(f"{self.path} was cut short while it was in use; run the same command again")
        return torch.from_numpy(values).to(self.device)

    def read_some(self, sequences: NDArray[np.int64]) -> Tensor:
        """Any sequences, (sequences, length, hidden)."""
        return torch.cat([self.read(slice(i, i + 1)) for i in sequences.tolist()])

    def write(self, batch: slice, x: Tensor) -> None:
        """Put the sequences of a batch.

        Raises:
            InputError: the disk is full.

        """
        try:
            with self.path.open("r+b") as file:
                file.seek(4 * batch.start * self.shape[1] * self.shape[2])
                file.write(x.detach().cpu().contiguous().numpy().data)
        except OSError as error:
            raise InputError(
                f"{self.path}, {4 * prod(self.shape):,} bytes, cannot be written: {error.strerror}; free space there, "
                "or choose another output"
            ) from error

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches():
            yield self.read(batch)
